"""What a small system must contain: the shared libraries of its programs, and what its kernel modules depend on."""

import re
from collections.abc import Iterable
from pathlib import Path

from paddock.base.errors import Refused
from paddock.base.run import run

_LIBRARY = re.compile(r"^\s*\S+ => (\S+) \(0x", re.MULTILINE)


def libraries(tree: Path, programs: Iterable[Path]) -> set[Path]:
    """The shared libraries that programs below `tree` load, and the loader, as paths below `tree`.

    Asks the loader of the tree itself, so that the host may be another release. Raises CommandFailed.
    """
    loader = next(iter(sorted((tree / "lib64").glob("ld-linux*"))), None) if (tree / "lib64").exists() else None
    if loader is None:
        raise Refused(f"there is no dynamic loader in {tree}", hint="images can be built on x86-64 hosts")
    search = ":".join(str(d) for d in _library_directories(tree))
    found = {loader}
    for program in programs:
        said = run([loader, "--library-path", search, "--list", program]).stdout
        found |= {_inside(tree, Path(p), program) for p in _LIBRARY.findall(said) if not p.startswith("/lib64/")}
    return found


def _inside(tree: Path, library: Path, program: Path) -> Path:
    if not library.is_relative_to(tree):
        raise Refused(f"{program.name} needs {library.name}, and no package that was fetched has it")
    return library


def _library_directories(tree: Path) -> list[Path]:
    return sorted({*tree.glob("lib/*-linux-gnu"), *tree.glob("usr/lib/*-linux-gnu")})


class Modules:
    """The kernel modules below a directory, with what each depends on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._paths = {_key(p): p for p in directory.rglob("*.ko")}

    def ordered(self, names: Iterable[str]) -> list[Path]:
        """The modules' files, each after those it depends on; one that the kernel has built in is left out."""
        found: dict[str, Path] = {}
        for name in names:
            self._visit(name.replace("-", "_"), found)
        return list(found.values())

    def depends(self, path: Path) -> list[str]:
        """What a module depends on, as the `depends=` in its .modinfo says."""
        match = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        return [n.replace("-", "_") for n in match[1].decode().split(",") if n] if match else []

    def _visit(self, name: str, found: dict[str, Path]) -> None:
        path = self._paths.get(name)
        if path is None or name in found:
            return
        for needed in self.depends(path):
            self._visit(needed, found)
        found[name] = path


def _key(path: Path) -> str:
    return path.name.removesuffix(".ko").replace("-", "_")
