"""Rules of the tree that no linter knows, each with its reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base.run import run
from paddock.cloud.flows import image, node, server  # noqa: F401  # registers the flows
from paddock.cloud.flows.engine import Flow

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_OF_A_FUNCTION = 500, 60
LONGER: dict[str, str] = {}  # file or file:function → why it reads better long
BINARY = {".gz", ".png", ".qcow2", ".whl", ".ico"}


def files(*parts: str, suffix: str = ".py") -> Iterator[Path]:
    for part in parts:
        yield from (f for f in sorted((ROOT / part).rglob(f"*{suffix}")) if "__pycache__" not in f.parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_long() -> None:
    """One that is has two subjects: split it where they meet."""
    lengths = {name_of(f): len(f.read_text(encoding="utf-8").splitlines()) for f in files("src")}
    assert {n: length for n, length in lengths.items() if length > MOST_LINES and n not in LONGER} == {}


def test_no_function_is_long() -> None:
    """One that is does more than its name says."""
    found = {}
    for path in files("src"):
        for one in ast.walk(parsed(path)):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.end_lineno:
                found[f"{name_of(path)}:{one.name}"] = one.end_lineno - one.lineno + 1
    assert {n: length for n, length in found.items() if length > MOST_OF_A_FUNCTION and n not in LONGER} == {}


def test_no_exception_without_need() -> None:
    for name in LONGER:
        assert (ROOT / name.partition(":")[0]).is_file(), f"{name} is gone: take it off the list"


def test_every_module_says_what_it_is() -> None:
    bare = [name_of(f) for f in files("src/paddock") if f.read_text(encoding="utf-8") and not _about(f)]
    assert [b for b in bare if "/migrations/" not in b] == []


def _about(path: Path) -> str | None:
    return ast.get_docstring(parsed(path))


def test_nothing_is_mocked() -> None:
    """The fake hypervisor is a product; a mock agrees with whatever the test believes."""
    unwanted = "mo" + "ck"
    for path in files("tests"):
        for one in ast.walk(parsed(path)):
            names = [a.name for a in one.names] if isinstance(one, ast.Import | ast.ImportFrom) else []
            module = one.module or "" if isinstance(one, ast.ImportFrom) else ""
            taken = [n for n in (*names, module) if unwanted in n.split(".") or n == f"pytest_{unwanted}"]
            assert not taken, f"{name_of(path)} imports {taken}: use the fake hypervisor"


def _committed() -> list[Path]:
    result = run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    return [ROOT / name for name in result.stdout.split("\0") if name]


UNWANTED = {
    "a registry's host: what is installed comes from where the user's own settings say": [
        r"pypi\." + "org", r"files\.python" + r"hosted\.org", r"registry\.npm" + r"js\.org", r"index\.crates" + r"\.io",
    ],
    "a path of the machine that it was written on": [
        "/work" + r"/(main|shared)\b", "/opt/" + "pypi",
    ],
}  # fmt: skip


@pytest.mark.parametrize("why", sorted(UNWANTED))
def test_the_tree_names_no(why: str) -> None:
    pattern = re.compile("|".join(UNWANTED[why]))
    found = []
    for path in _committed():
        if path.suffix in BINARY or not path.is_file() or path.is_symlink():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not found, f"{why}: {found}"


@pytest.mark.parametrize("kind", sorted(Flow.registry))
def test_every_step_is_documented(kind: str) -> None:
    """Operators read it before they run a step again."""
    flow = type(Flow.registry[kind])
    assert [name for name in flow.steps() if not (getattr(flow, name).__doc__ or "").strip()] == []
