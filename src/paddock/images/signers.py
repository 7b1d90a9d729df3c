"""Whose signatures can be checked on this host, and what has the keys of the others.

`python -m paddock.images.signers STATE` prints it as JSON: a process of its own, so that `paddock doctor` stays small.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from paddock.base.errors import PaddockError
from paddock.base.statedir import StateDir
from paddock.images import catalogue
from paddock.images.catalogue import Catalogue


@dataclass(frozen=True)
class Signer:
    """A publisher that signs. `checked`: there is a key ring here for each of its images that can be had."""

    name: str
    checked: bool
    package: str  # Debian's, that has its keys; empty: none is known
    place: str  # where an operator puts a key ring


def signers(known: Catalogue, keys: Path) -> list[Signer]:
    """All publishers of the catalogue that sign, by name. `keys`: the operator's key rings."""
    offered = [entry for entry in known.offered if entry.publisher]
    without = {entry.publisher for entry in offered if known.keyring(entry, keys) is None}
    names = sorted({entry.publisher for entry in offered})
    return [Signer(n, n not in without, known.publisher[n].package, str(keys / f"{n}.gpg")) for n in names]


def main() -> int:
    """Print them, or what is wrong with the catalogue."""
    state = StateDir(Path(sys.argv[1]))
    try:
        found = signers(catalogue.load(state.catalogue), state.keys)
    except PaddockError as e:
        print(e.message, file=sys.stderr)
        return 1
    print(json.dumps([asdict(signer) for signer in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
