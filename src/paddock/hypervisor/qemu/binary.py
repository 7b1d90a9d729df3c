"""The QEMU program of this host: where it is, its version, and what it was built with."""

import functools
import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from paddock.base import ovmf, run
from paddock.base.errors import PaddockError, Refused
from paddock.hypervisor.qemu.cmdline import Binary

PROGRAM = "qemu-system-x86_64"
OLDEST = (7, 2)
_HINT = "install qemu-system-x86 (Debian 12 and newer have one that fits)"

log = logging.getLogger(__name__)


def find_binary() -> Binary:
    """What QEMU can do here. Raises Refused when there is none, or none that we can use."""
    path = shutil.which(PROGRAM)
    if path is None:
        raise Refused(f"{PROGRAM} is not installed", hint=_HINT)
    uefi = ovmf.find()
    return replace(_ask(path, os.stat(path).st_mtime_ns), uefi_code=uefi.code if uefi else "")


def version_of(text: str) -> str:
    """The version in what `qemu -help` prints. Raises Refused when there is none or it is too old."""
    found = re.search(r"QEMU emulator version (\d+)\.(\d+)(\.\d+)?", text)
    if not found:
        raise Refused(f"{PROGRAM} does not say its version: {text[:200]!r}", hint=_HINT)
    version = f"{found[1]}.{found[2]}{found[3] or ''}"
    if (int(found[1]), int(found[2])) < OLDEST:
        raise Refused(f"QEMU {version} is too old: 7.2 is the oldest that works", hint=_HINT)
    return version


def migration_capabilities(path: str) -> frozenset[str]:
    """How this program can write and read a guest's memory. Empty when it does not say: it may run guests all the
    same, and where it can't, they say why."""
    commands = ("qmp_capabilities", "query-migrate-capabilities", "quit")
    asked = "".join(json.dumps({"execute": command}) + "\n" for command in commands)
    bare = ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"]
    try:
        said = run.run([path, *bare], input=asked, timeout=30).stdout
        answers = [json.loads(line).get("return") for line in said.splitlines()]
        return frozenset(str(one["capability"]) for answer in answers if isinstance(answer, list) for one in answer)
    except (PaddockError, ValueError, KeyError, AttributeError) as e:
        log.warning("%s does not say how it keeps a guest's memory, so no server begins warm: %s", path, e)
        return frozenset()


@functools.lru_cache(maxsize=4)
def _ask(path: str, _changed: int) -> Binary:
    text = run.run([path, "-help"], timeout=10).stdout
    binary = Binary(
        program=path,
        version=version_of(text),
        sandbox="-sandbox on" in text,
        user_network="-netdev user" in text,
        build=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        migration=migration_capabilities(path),
    )
    if not binary.user_network:
        raise Refused(f"QEMU {binary.version} was built without user-mode networking", hint=_HINT)
    return binary
