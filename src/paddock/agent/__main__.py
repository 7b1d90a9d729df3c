"""`python -m paddock.agent`: serve this node's hypervisor on a unix socket until SIGTERM. Machines outlive it."""

import argparse
import asyncio
import importlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import cast, get_args

from uvicorn.config import Config
from uvicorn.server import Server

from paddock import __version__
from paddock.agent.app import Agent
from paddock.agent.home import Home
from paddock.agent.listen import listen
from paddock.base import log as logs
from paddock.base.errors import PaddockError
from paddock.hypervisor.base import Hypervisor
from paddock.hypervisor.fence import Fenced
from paddock.machine.spec import GIB
from paddock.machine.warm import WARM_BUDGET, Policy

log = logging.getLogger(__name__)

STOP_SECONDS = 0.8  # after SIGTERM, until we end even if a call is under way: all that is on disk is whole
KEEP_ALIVE = 75  # seconds: longer than our client keeps a connection, so that it never sends into a closing one

# A module is imported when its driver is chosen, so that a node pays for no other driver's memory.
DRIVERS = {
    "qemu": ("paddock.hypervisor.qemu.driver", "QemuHypervisor"),
    "fake": ("paddock.hypervisor.fake", "FakeHypervisor"),
}


def _driver(options: argparse.Namespace, root: Path) -> Hypervisor:
    module, name = DRIVERS[options.driver]
    made = cast("Callable[..., Hypervisor]", getattr(importlib.import_module(module), name))
    host = {"accelerator": options.accelerator} if options.driver == "qemu" else {}
    return made(root, warm=options.warm, warm_budget=options.warm_budget_gib * GIB, **host)


class AgentServer(Server):
    """A uvicorn server that ends within STOP_SECONDS of the signal, whoever is still being served."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(
            Config(
                agent.app, log_config=None, access_log=False, lifespan="on", loop="asyncio", http="h11",
                ws="websockets-sansio", ws_max_size=1024 * 1024, ws_per_message_deflate=False, server_header=False,
                date_header=False, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._agent = agent
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            guard = threading.Timer(STOP_SECONDS, os._exit, (0,))
            guard.daemon = True
            guard.start()
            if self._loop:
                self._loop.call_soon_threadsafe(self._agent.stop)
        super().handle_exit(sig, frame)


def serve(options: argparse.Namespace) -> int:
    """Run until a signal. Raises Refused or Conflict when the directory or the socket can't be had."""
    path = options.socket.absolute()
    with ExitStack() as stack:
        home = Home(options.state_dir.absolute(), options.name, options.driver)
        stack.callback(home.close)
        listener = listen(path)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(listener.close)
        driver = _driver(options, home.root)
        hypervisor = Fenced(driver, home.fence)
        stack.callback(hypervisor.close)
        log.info("paddock %s: node %s, driver %s, listens on %s", __version__, options.name, options.driver, path)
        agent = Agent(hypervisor, driver.machines, getattr(driver, "inject", None))
        _serve_on(AgentServer(agent), listener)
    log.info("stopped; machines go on")
    return 0


def _serve_on(server: AgentServer, listener: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn raises the signal again when it is done
    asyncio.run(server.serve(sockets=[listener]))


def _open_many_files() -> None:
    """Three descriptors are held for each machine that runs: as many as the host allows, and not a login's 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paddock.agent", description=__doc__)
    parser.add_argument("--name", required=True, help="name of the node")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--state-dir", type=Path, required=True, help="directory of this node alone")
    parser.add_argument("--driver", choices=sorted(DRIVERS), default="qemu")
    parser.add_argument("--accelerator", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--warm", choices=get_args(Policy), default="second-use", help="when to make warm images")
    parser.add_argument("--warm-budget-gib", type=int, default=WARM_BUDGET // GIB, help="of disk, for all of them")
    return parser.parse_args()


def main() -> int:
    options = _options()
    logs.setup(f"agent {options.name}")
    _open_many_files()
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    try:
        return serve(options)
    except PaddockError as e:
        log.error("the node agent can't start: %s", e)
        return 1


if __name__ == "__main__":
    sys.exit(main())
