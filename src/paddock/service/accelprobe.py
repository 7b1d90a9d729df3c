"""`python -m paddock.service.accelprobe FILE DIR...`: what guests run under here, as JSON.

A process of its own, so that `paddock doctor` neither hangs with it nor imports a hypervisor. FILE remembers the
answer; the DIRs are looked through for kernels to try.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from paddock.base.errors import PaddockError
from paddock.hypervisor.qemu.accel import AcceleratorChoice, Finding
from paddock.machine.state import Accelerator


def main() -> int:
    """Print the finding."""
    places = [Path(word) for word in sys.argv[2:]]
    choice = AcceleratorChoice("auto", Path(sys.argv[1]), lambda: [k for p in places for k in p.glob("*/kernel")])
    try:
        found = choice.find()
    except PaddockError as e:
        found = Finding(Accelerator.TCG, e.message, e.hint)
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
