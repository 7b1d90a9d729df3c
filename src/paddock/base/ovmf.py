"""Where this host has the UEFI firmware for guests (OVMF), if it has one."""

from dataclasses import dataclass
from pathlib import Path

# (code, empty variables): Debian's and Ubuntu's package ovmf, Fedora's and CentOS' edk2-ovmf
PLACES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)


@dataclass(frozen=True)
class Ovmf:
    """The files of a firmware."""

    code: str
    variables: Path  # raw, of a machine that never booted


def find() -> Ovmf | None:
    """The firmware of this host; None where there is none."""
    for code, variables in PLACES:
        if Path(code).is_file() and Path(variables).is_file():
            return Ovmf(code, Path(variables))
    return None
