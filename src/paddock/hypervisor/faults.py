"""What the fake hypervisor can be told to do wrong, so that everything above it can be tried against it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from paddock.base import clock
from paddock.base.errors import from_wire
from paddock.machine.spec import Frozen

Operation = Literal[
    "facts", "ensure", "power", "remove", "state", "changes", "readiness", "ensure_image", "images", "remove_image",
    "ensure_disk", "exec", "console", "vnc", "console_log", "adapt", "metrics", "sizes", "snapshot", "drop_snapshot",
    "ensure_volume", "remove_volume", "volumes", "set_password", "read_file", "write_file", "send_keys",
    "hibernate", "set_disk_password", "make_warm", "warm_images", "keep_ready", "remove_warm",
    "fork", "drop_fork",
]  # fmt: skip


class Failure(Frozen):
    """The next `times` calls of an operation fail."""

    operation: Operation
    code: str = "unavailable"  # of paddock.base.errors
    message: str = "failed on demand"
    times: Annotated[int, Field(ge=1)] = 1
    machine: UUID | None = None  # only calls about this one; for volumes: about this volume
    after: bool = False  # the call has its effect, and only its answer is lost


class FaultOrder(Frozen):
    """What shall go wrong from now on; what is left out stays as it is."""

    clear: bool = False  # first forget all earlier orders
    fail: tuple[Failure, ...] = ()
    delay: Annotated[float | None, Field(ge=0, description="seconds that every call takes longer")] = None
    crash: tuple[UUID, ...] = ()  # these machines' processes die now
    reboot: tuple[UUID, ...] = ()  # these machines' guests reboot now, by themselves
    lose: tuple[UUID, ...] = ()  # these volumes are gone now, as if somebody had deleted their files
    restart_host: bool = False  # the node's host loses its power and is started again now
    damage: tuple[UUID, ...] = ()  # what these hibernated machines' memory was written to is damaged now
    never_ready: bool | None = None
    guest_agent_hangs: bool | None = None
    guest_agent_absent: bool | None = None  # as in an image without one: no answer, and no waiting for it
    shutdown_ignored: bool | None = None
    disk_full: bool | None = None  # nothing more can be made or grown
    copy_seconds: Annotated[float | None, Field(ge=0, description="that copying or a warm image takes")] = None
    copy_error: str | None = None  # with which copies of snapshots end; empty: they succeed
    not_frozen: str | None = None  # why guests can't be held still for a snapshot; empty: they can
    helper_error: str | None = None  # with which helper guests end; empty: they do their job
    warm_error: str | None = None  # why there can be no warm image; empty: there can


_STATES = (
    "delay", "never_ready", "guest_agent_hangs", "guest_agent_absent", "shutdown_ignored", "disk_full", "copy_seconds",
    "copy_error", "not_frozen", "helper_error", "warm_error",
)  # fmt: skip


class Faults:
    """The orders in force. Thread-safe."""

    def __init__(self, delay: float) -> None:
        self._lock = threading.Lock()
        self._usual_delay = delay
        self._clear()

    def _clear(self) -> None:
        self._left: list[tuple[Failure, int]] = []
        self.delay = self._usual_delay
        self.never_ready = False
        self.guest_agent_hangs = False
        self.guest_agent_absent = False
        self.shutdown_ignored = False
        self.disk_full = False
        self.copy_seconds = 0.0
        self.copy_error = ""
        self.not_frozen = ""
        self.helper_error = ""
        self.warm_error = ""

    def take(self, order: FaultOrder) -> None:
        """Add an order to those in force (all of it but what happens at once)."""
        with self._lock:
            if order.clear:
                self._clear()
            self._left += [(failure, failure.times) for failure in order.fail]
            for name in _STATES:
                if (value := getattr(order, name)) is not None:
                    setattr(self, name, value)

    @contextmanager
    def around(self, operation: Operation, machine: UUID | None = None) -> Iterator[None]:
        """Wrap an operation: slow it down, and make it fail before or after its effect, as ordered."""
        if self.delay:
            clock.sleep(self.delay)
        if self._left:
            self._raise_due(operation, machine, after=False)
        yield
        if self._left:
            self._raise_due(operation, machine, after=True)

    def _raise_due(self, operation: Operation, machine: UUID | None, *, after: bool) -> None:
        with self._lock:
            failure = self._due(operation, machine, after)
        if failure:
            raise from_wire({"code": failure.code, "message": f"{operation}: {failure.message}"})

    def _due(self, operation: Operation, machine: UUID | None, after: bool) -> Failure | None:
        for index, (failure, left) in enumerate(self._left):
            concerned = failure.machine is None or failure.machine == machine
            if failure.operation == operation and failure.after == after and concerned:
                self._left[index : index + 1] = [(failure, left - 1)] if left > 1 else []
                return failure
        return None
