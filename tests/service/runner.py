"""`python -m tests.service.runner STATE TABLE`: the real supervisor on a table of small processes given as JSON.

Prints an event a line. A process's `ready` is {"alive": seconds}, {"http": [host, port]} or {"file": path}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from paddock.base import log
from paddock.base.errors import PaddockError
from paddock.base.statedir import StateDir
from paddock.service import state
from paddock.service.process import Process
from paddock.service.ready import Alive, Asks, Http, Ready
from paddock.service.supervisor import Event, Supervisor, stop_leftovers


def tell(event: Event) -> None:
    print(event.what, event.name, event.text.replace("\n", " | "), flush=True)


def check(said: dict[str, Any]) -> Ready:
    if "http" in said:
        return Http(tuple(said["http"]), "/")
    if "file" in said:
        return Asks(lambda: "" if Path(said["file"]).exists() else "a file")
    return Alive(said.get("alive", 0.1))


def process(said: dict[str, Any]) -> Process:
    return Process(
        **{k: v for k, v in said.items() if k in ("name", "stage", "ends", "once", "start_within", "tethered")},
        argv=tuple(said["argv"]),
        ready=check(said.get("ready", {})),
        signals=tuple((n, s) for n, s in said.get("signals", [(15, 5.0), (9, 5.0)])),
    )


def main() -> int:
    log.setup("supervisor")
    directory = StateDir(Path(sys.argv[1]))
    state.lock(directory)
    for name in stop_leftovers(directory):
        tell(Event("leftover", name))
    supervisor = Supervisor(directory, tell)
    code = 0
    try:
        supervisor.up([process(said) for said in json.loads(sys.argv[2])])
        tell(Event("up"))
        supervisor.watch()
    except PaddockError as e:
        tell(Event("failed", text=e.message))
        code = 1
    finally:
        supervisor.stop()
    tell(Event("down"))
    return code


if __name__ == "__main__":
    sys.exit(main())
