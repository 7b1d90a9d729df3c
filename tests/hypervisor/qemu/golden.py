"""Comparison with golden files; `PADDOCK_WRITE_GOLDEN=1` writes them, for a person to look at the difference."""

import os
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden/qemu"


def same_as_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("PADDOCK_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs: PADDOCK_WRITE_GOLDEN=1 writes it anew"
