"""Debian packages for images, fetched with the host's own package sources and nothing of the host's package state.

apt works as any user once it is given directories of its own; nothing is installed here.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from paddock.base.errors import CommandFailed, Refused, Unavailable
from paddock.base.run import Completed, run

_FETCH_TIMEOUT = 1800.0  # seconds; a slow line and 60 MB


class Packages:
    """apt with its lists and its cache in a directory of our own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = directory / "apt.conf"

    def update(self) -> None:
        """Read the package lists. Raises Refused without apt, Unavailable when no list could be read."""
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        self._config.write_text(_apt_conf(self._directory), encoding="utf-8")
        self._apt("apt-get", "-qq", "update")

    def libraries(self, names: Iterable[str]) -> tuple[str, ...]:
        """The library packages that the named packages need, directly or not."""
        known = _depends(self._apt("apt-cache", "depends", "--recurse", *_ONLY_DEPENDS, *names).stdout)
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            needed = {n for n in known.get(waiting.pop(), ()) if n.startswith(("lib", "zlib"))} - found
            found |= needed
            waiting += needed
        return tuple(sorted(found))

    def versioned(self, name: str, prefix: str) -> str:
        """The package with that prefix which a meta package stands for. Raises Refused when there is none."""
        depends = _depends(self._apt("apt-cache", "depends", name).stdout).get(name, ())
        for needed in depends:
            if needed.startswith(prefix):
                return needed
        raise Refused(f"the package {name} is not to be had from this host's package sources", hint=_SOURCES)

    def unpack(self, names: Iterable[str], tree: Path) -> None:
        """Fetch packages and unpack them below `tree`. apt checks their signatures and checksums."""
        wanted = list(names)
        archives = self._directory / "cache/archives"
        for left in archives.glob("*.deb"):
            left.unlink()
        self._apt("apt-get", "-qq", "download", *wanted, cwd=archives)
        tree.mkdir(parents=True, exist_ok=True)
        for archive in sorted(archives.glob("*.deb")):
            run(["dpkg-deb", "-x", archive, tree], timeout=300)

    def sources_of(self, release: str) -> tuple[str, ...]:
        """The host's own sources of that Debian release, its updates and its security updates, as `deb` lines.

        Found by what their lists say of themselves, so that a mirror of any name counts, and nobody else's packages.
        """
        self.update()
        listed = self._apt("apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages").stdout
        found: dict[str, None] = {}
        for line in listed.splitlines():
            origin, codename, uri, suite, component, key = line.split("\t")
            if origin == "Debian" and codename.partition("-")[0] == release:
                signed = f"[signed-by={key}] " if key.startswith("/") else ""
                found[f"deb {signed}{uri} {suite} {component}"] = None
        return tuple(found)

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> Completed:
        argv = ["env", "-C", str(cwd), program, *words] if cwd else [program, *words]
        try:
            return run(argv, timeout=_FETCH_TIMEOUT, env={"APT_CONFIG": str(self._config), "LC_ALL": "C.UTF-8"})
        except CommandFailed as e:
            raise Unavailable(f"Debian's packages could not be fetched: {e.message}", hint=_SOURCES) from e


_SOURCES = "this host needs apt with Debian's package sources and a way to them; try `apt-get update`"
_TARGET = "$(ORIGIN)\t$(CODENAME)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SIGNED_BY)"
_ONLY_DEPENDS = (
    "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
)  # fmt: skip


def _apt_conf(directory: Path) -> str:
    """apt's configuration: how the host fetches (proxies), and none of its directories and hooks.

    The file that APT_CONFIG names is read first, so it can say that no other is.
    """
    own = {
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::main": "/dev/null",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Dir::Log": directory,
        "APT::Sandbox::User": "",  # the directories are ours alone, so apt must stay the user it is
        "APT::Architecture": _architecture(),
    }
    dump = run(["apt-config", "dump"]).stdout.splitlines()
    fetching = [line for line in dump if line.startswith("Acquire::")]
    return "\n".join([*(f'{key} "{value}";' for key, value in own.items()), *fetching]) + "\n"


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _depends(text: str) -> dict[str, tuple[str, ...]]:
    """`apt-cache depends` as a map from a package to what it depends on; of alternatives, the first."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            current = found.setdefault(line.strip(), [])
        elif match := re.match(r"^ [ |](?:Pre)?Depends: ([^<\s]+)", line):
            current.append(match[1])
    return {name: tuple(depends) for name, depends in found.items()}
