"""An SSH host key for a machine that starts warm. It is made here, where that takes milliseconds: in a guest under
emulation it takes longer than all else until SSH answers. The node sees the guest's memory anyway."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from paddock.base import run

KIND = "ed25519"


@dataclass(frozen=True)
class HostKey:
    """As OpenSSH has it in its files."""

    private: str
    public: str


def new(hostname: str) -> HostKey:
    """A key that nobody had before. Raises Refused where there is no ssh-keygen, CommandFailed."""
    with tempfile.TemporaryDirectory(prefix="paddock-key-") as directory:
        path = Path(directory) / "key"
        run.run(["ssh-keygen", "-q", "-t", KIND, "-N", "", "-C", f"root@{hostname}", "-f", path], timeout=20)
        return HostKey(path.read_text(), path.with_suffix(".pub").read_text().strip())
