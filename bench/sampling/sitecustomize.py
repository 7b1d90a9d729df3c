"""Makes every Python process of a stack profile itself: see `bench/profiles.py`.

Python imports this module at its start when its directory is in PYTHONPATH. A thread looks every few milliseconds at
what all others do, and books the CPU time that each has used since the last look on the line that it is at.
"""

import collections
import json
import os
import sys
import threading
import time

INTERVAL = 0.003  # seconds
WRITE_EVERY = 2.0


def _cpu(native: int) -> int:
    try:
        with open(f"/proc/self/task/{native}/schedstat") as file:
            return int(file.read().split()[0])
    except OSError:
        return 0


def _stack(frame) -> tuple:  # type: ignore[no-untyped-def, type-arg]  # runs before anything of ours can be imported
    found = []
    while frame is not None:
        found.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)


def _sample(path: str) -> None:
    own: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    spent: dict[int, int] = {}
    me, written = threading.get_ident(), time.monotonic()
    while True:
        time.sleep(INTERVAL)
        natives = {t.ident: t.native_id for t in threading.enumerate() if t.native_id}
        for ident, frame in sys._current_frames().items():
            native = natives.get(ident)
            if native is None or ident == me:
                continue
            now = _cpu(native)
            used = now - spent.get(native, now)
            spent[native] = now
            if used:
                stack = _stack(frame)
                own[stack[0]] += used
                for line in set(stack):
                    total[line] += used
        if time.monotonic() - written > WRITE_EVERY:
            written = time.monotonic()
            with open(f"{path}.new", "w") as file:
                json.dump({"argv": sys.orig_argv, "own": own, "total": total}, file)
            os.replace(f"{path}.new", path)


if where := os.environ.get("PADDOCK_BENCH_SAMPLES"):
    name = os.path.join(where, f"{os.getpid()}.json")
    threading.Thread(target=_sample, args=(name,), name="sampler", daemon=True).start()
