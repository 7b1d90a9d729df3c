"""The fake's warm images: made and used by the same rules as real ones, though there is nothing in them.

One is being made for some moments, and is there when somebody looks after that: no thread is needed for it. So it is
with guests that are held ready.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paddock.base import clock
from paddock.base.errors import DiskFull, NotFound, PaddockError, Refused, Unavailable
from paddock.hypervisor.fake_host import Fake, FakeHost
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Machine
from paddock.machine.state import Progress
from paddock.machine.warm import WARM_BUDGET, Policy, Start, WarmImage, Wish, none_yet, too_small, why_not

MAKING_SECONDS = 0.1  # at least

_KEY = {
    "warm", "image", "cpus", "max_cpus", "memory_mib", "max_memory_mib", "layout", "machine_type", "cpu_model",
    "nested", "dedicated_cpus", "kernel_args",
}  # fmt: skip


@dataclass(frozen=True)
class _Making:
    """A warm image that is being made, and since when."""

    told: WarmImage
    begun: float  # monotonic


class FakeWarm:
    """See `paddock.hypervisor.base.WarmImages`. `policy` may be changed; `budget` is in bytes."""

    def __init__(self, host: FakeHost, policy: Policy = "second-use", budget: int = WARM_BUDGET) -> None:
        self.policy: Policy = policy
        self.budget = budget
        self._host = host
        self._making: dict[str, _Making] = {}  # by key
        self._errors: dict[str, PaddockError] = {}  # of the last attempt
        self._wishes: dict[str, Wish] = {}  # by key
        self._ready: dict[str, int] = {}  # by key
        self._filled = float("inf")  # from when on there are as many as wished

    def make_warm(self, machine: Machine) -> Progress:
        with self._host.faults.around("make_warm"), self._host.changed:
            manifest = self._host.images.get(machine.image)
            if manifest is None:
                raise NotFound(f"image {machine.image} is not on this node", hint="copy it here first")
            if why := why_not(machine, manifest):
                raise Refused(f"image {manifest.name} can't be warm: {why}")
            key, found = key_of(machine), self._find(key_of(machine))
            if found and found.unusable:
                raise Refused(f"image {manifest.name} can't be warm: {found.unusable}")
            if found:
                return Progress(done=True)
            if error := self._errors.pop(key, None):
                raise error
            self._begin(key, machine, manifest)
            return Progress(done=False, doing="booting its guest")

    def warm_images(self) -> tuple[WarmImage, ...]:
        with self._host.faults.around("warm_images"), self._host.changed:
            return self.known()

    def known(self) -> tuple[WarmImage, ...]:
        """The same, for who holds the host's lock."""
        self._settle()
        self._fill()
        users = [fake.saved.stands_on for fake in self._host.fakes.values()]
        kept = (self._told(warm, users.count(warm.id)) for warm in self._host.warm_kept.values())
        return (*kept, *(making.told for making in self._making.values()))

    def _told(self, warm: WarmImage, machines: int) -> WarmImage:
        key = warm.id.partition("-")[0]
        ready, wanted = self._ready.get(key, 0), self._wishes[key].count if key in self._wishes else 0
        lacking = "the node has no memory to spare" if ready < wanted and not self._room(self._wishes[key]) else ""
        return warm.model_copy(update={"machines": machines, "ready": ready, "wanted": wanted, "lacking": lacking})

    def keep_ready(self, wishes: tuple[Wish, ...]) -> None:
        with self._host.faults.around("keep_ready"), self._host.changed:
            self._fill()
            self._wishes = {key_of(wish.machine): wish for wish in wishes if wish.count}
            kept = ((key, wish.count) for key, wish in self._wishes.items() if key in self._ready)
            self._ready = {key: min(self._ready[key], count) for key, count in kept}
            self._begin_filling()

    def _begin_filling(self) -> None:
        if any(self._ready.get(key, 0) < wish.count for key, wish in self._wishes.items()):
            self._filled = min(self._filled, clock.monotonic() + max(MAKING_SECONDS, self._host.faults.copy_seconds))

    def _fill(self) -> None:
        """What was begun long enough ago is there, as far as there is memory for it."""
        if clock.monotonic() < self._filled:
            return
        self._filled = float("inf")
        for key, wish in self._wishes.items():
            manifest = self._host.images.get(wish.machine.image)
            if manifest is None or why_not(wish.machine, manifest):
                continue
            found = self._find(key)
            if found is None:
                self._begin(key, wish.machine, manifest)
            elif not found.unusable and self._room(wish):
                self._ready[key] = wish.count
        self._begin_filling()

    def _room(self, wish: Wish) -> bool:
        return self._host.memory_mib - self._host.memory_used >= wish.machine.memory_mib

    def _taken(self, machine: Machine) -> bool:
        """Whether one is ready for it; it is not any more."""
        key = key_of(machine)
        self._fill()
        wish = self._wishes.get(key)
        if not wish or not self._ready.get(key) or wish.machine.system_disk.size != machine.system_disk.size:
            return False
        self._ready[key] -= 1
        self._begin_filling()
        return True

    def remove_warm(self, id: str) -> None:
        with self._host.faults.around("remove_warm"), self._host.changed:
            self._settle()
            self._ready.pop(id.partition("-")[0], None)
            self._host.forget_warm(id)
            self._begin_filling()

    def begin(self, fake: Fake, paused: bool) -> dict[str, Any]:
        """How a machine begins that is turned on: what changes of what is saved of it. May have a warm image made."""
        machine = fake.saved.machine
        if machine is None or not fake.saved.fresh:
            return {"began": Start(), "woken": False}
        found, why = self._choose(machine, paused)
        if found:
            self._host.keep_warm(found.model_copy(update={"used": clock.now()}))
        pool = found is not None and not machine.dedicated_cpus and self._taken(machine)
        began = Start(warm=found is not None, pool=pool, why=why)
        return {"began": began, "woken": began.warm, "fresh": False, "stands_on": found.id if found else ""}

    def _choose(self, machine: Machine, paused: bool) -> tuple[WarmImage | None, str]:
        """What a new machine starts from; or why it boots."""
        manifest = self._host.images.get(machine.image)
        if manifest is None:
            return None, "its image is not on this node"
        if why := why_not(machine, manifest, paused):
            return None, why
        found = self._find(key_of(machine))
        if found is None:
            return None, none_yet(manifest.name, machine, self._make_unasked(machine, manifest))
        if found.unusable:
            return None, found.unusable
        if found.disk > machine.system_disk.size:
            return None, too_small(found.disk)
        return found, ""

    def _make_unasked(self, machine: Machine, manifest: ImageManifest) -> bool:
        """Whether one is being made, if need be because the policy says so."""
        key = key_of(machine)
        seen = self._host.see_warm(key)
        if self.policy == "always" or (self.policy == "second-use" and seen):
            self._begin(key, machine, manifest)
        return key in self._making

    def _begin(self, key: str, machine: Machine, manifest: ImageManifest) -> None:
        told = WarmImage(
            id=key, image=machine.image, name=manifest.name, scope=machine.warm, cpus=machine.cpus,
            memory_mib=machine.memory_mib, disk=machine.system_disk.size, making=True,
        )  # fmt: skip
        self._making.setdefault(key, _Making(told, clock.monotonic()))

    def _find(self, key: str) -> WarmImage | None:
        """The one of that key, or the note that there can be none."""
        self._settle()
        return next((w for id, w in self._host.warm_kept.items() if id.startswith(f"{key}-")), None)

    def _settle(self) -> None:
        """What was begun long enough ago is there, or has failed."""
        seconds = max(MAKING_SECONDS, self._host.faults.copy_seconds)
        for key, making in list(self._making.items()):
            if clock.monotonic() - making.begun >= seconds:
                del self._making[key]
                self._end(key, making.told.model_copy(update={"making": False, "made": clock.now()}))

    def _end(self, key: str, told: WarmImage) -> None:
        try:
            self._take_room(told)
            size = told.memory_mib * MIB
            self._host.keep_warm(told.model_copy(update={"id": f"{key}-{secrets.token_hex(4)}", "size": size}))
        except (DiskFull, NotFound, Unavailable) as e:
            self._errors[key] = e
        except Refused as e:  # it is not tried again
            self._host.keep_warm(told.model_copy(update={"id": f"{key}-none", "disk": 0, "unusable": e.message}))

    def _take_room(self, told: WarmImage) -> None:
        """Raises whatever keeps it from being made."""
        host, size = self._host, told.memory_mib * MIB
        if told.image not in host.images:
            raise NotFound(f"image {told.image} is not on this node", hint="copy it here first")
        if host.faults.warm_error:
            raise Refused(host.faults.warm_error)
        if (free := host.memory_mib - host.memory_used) < told.memory_mib:
            raise Unavailable(f"the node has {free} MiB of memory free, too little for {told.memory_mib} MiB more")
        if size > self.budget:
            text = f"a warm image of {size} bytes is larger than all that the node has for them: {self.budget} bytes"
            raise DiskFull(text, hint="give it more: warm_budget_gib of the node in paddock.toml")
        self._make_room(size)
        host.claim(size)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used until `size` more bytes are within the budget."""
        images = sorted(self._host.warm_kept.values(), key=lambda w: w.used or datetime.min.replace(tzinfo=UTC))
        taken = sum(w.size for w in images)
        for warm in images:
            if taken + size > self.budget and not warm.unusable:
                self._host.forget_warm(warm.id)
                taken -= warm.size


def key_of(machine: Machine) -> str:
    """A hash of all that a warm image of this machine would depend on."""
    parts = machine.model_dump(mode="json", include=_KEY)
    parts["max_cpus"] = max(machine.cpus, machine.max_cpus)
    parts["max_memory_mib"] = max(machine.memory_mib, machine.max_memory_mib)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
