"""Warm starts on a node: which machine starts from which warm image, and when one is made.

They are made one at a time, by a thread of their own and with low priority, when an image is used with the same CPUs
and memory for the second time (or the first, or never: the policy), or when somebody asks. No start waits for it.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from paddock.base import clock
from paddock.base.errors import NotFound, PaddockError, Refused
from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.qmp import QmpThread
from paddock.hypervisor.qemu.warm.guest import Hopeless
from paddock.hypervisor.qemu.warm.key import Key, key_of
from paddock.hypervisor.qemu.warm.make import Maker, Plan
from paddock.hypervisor.qemu.warm.pool import Pool
from paddock.hypervisor.qemu.warm.store import Record, WarmStore
from paddock.machine.spec import Machine
from paddock.machine.state import Progress
from paddock.machine.warm import WARM_BUDGET, Policy, WarmImage, Wish, none_yet, too_small, why_not

RETRY_SECONDS = 900.0  # after a failure, until it is tried again unasked

log = logging.getLogger(__name__)


class WarmNode:
    """See above."""

    def __init__(
        self, layout: Layout, images: ImageStore, choice: AcceleratorChoice, policy: Policy, budget: int = WARM_BUDGET
    ) -> None:
        self._layout = layout
        self._images = images
        self._choice = choice
        self.policy: Policy = policy
        self.store = WarmStore(layout, budget)
        self._thread = QmpThread()
        self.pool = Pool(layout, self._thread, self.store, self._usable)
        self._workers = ThreadPoolExecutor(1, "warm")
        self._lock = threading.Lock()
        self._makers: dict[str, Maker | None] = {}  # by key: those that are made, or wait for that
        self._errors: dict[str, PaddockError] = {}  # of the last attempt, for who asks for it
        self._attempts: dict[str, tuple[float, str]] = {}  # those that failed: when, and why
        self._stop = threading.Event()

    def choose(self, machine: Machine, directory: MachineDir, paused: bool) -> tuple[Record | None, str]:
        """What a new machine starts from; or why it boots. That may have one made."""
        self.pool.hold_off()
        try:
            plan = self._plan(machine)
        except Refused as e:
            return None, e.message
        if why := why_not(machine, plan.manifest, paused):
            return None, why
        record, why = self.store.find(plan.key)
        if record is None:
            return None, why or self._missing(plan)
        if record.disk > machine.system_disk.size:
            return None, too_small(record.disk)
        if record.seed != files.size_of(directory.seed):
            return None, "its user data is larger than warm images are prepared for"
        self.store.note_use(record.id)
        return record, ""

    def make_warm(self, machine: Machine) -> Progress:
        """Have the warm image made that this machine could start from; ask again until done. Raises Refused where
        there can be none."""
        plan = self._plan(machine)
        if why := why_not(machine, plan.manifest):
            raise Refused(f"image {plan.manifest.name} can't be warm: {why}")
        record = self.store.of(plan.key)
        if record and record.unusable:
            raise Refused(f"image {plan.manifest.name} can't be warm: {record.unusable}")
        if record:
            return Progress(done=True)
        if error := self._errors.pop(plan.key.id, None):
            raise error
        self._begin(plan)
        maker = self._makers.get(plan.key.id)
        return Progress(done=False, doing=maker.doing if maker else "waiting for another to be made")

    def keep_ready(self, wishes: tuple[Wish, ...]) -> None:
        """See `paddock.hypervisor.base.WarmImages`."""
        self.pool.keep([(self._plan(wish.machine), wish.count) for wish in wishes if self._possible(wish.machine)])

    def _possible(self, machine: Machine) -> bool:
        """Whether it can be planned: its image may not be here yet."""
        try:
            return not why_not(machine, self._plan(machine).manifest)
        except (NotFound, Refused) as e:
            log.warning("no guests of image %s can be held ready: %s", machine.image[:12], e)
            return False

    def _usable(self, plan: Plan) -> tuple[Record | None, str]:
        """A warm image that guests can be held ready of, made if need be; or why there is none. Raises why it could
        not be made."""
        record, why = self.store.find(plan.key)
        if record is None and not why:
            if error := self._errors.pop(plan.key.id, None):
                raise error
            self._begin(plan)
            return None, "its warm image is being made"
        return record, why

    def warm_images(self) -> tuple[WarmImage, ...]:
        """Those that there are, and those that are made."""
        found = [self._with_ready(image) for image in self.store.images()]
        return (*found, *(_in_making(maker.plan) for maker in list(self._makers.values()) if maker))

    def _with_ready(self, image: WarmImage) -> WarmImage:
        ready, wanted, lacking = self.pool.told(image.id.partition("-")[0])
        return image.model_copy(update={"ready": ready, "wanted": wanted, "lacking": lacking})

    def remove_warm(self, id: str) -> None:
        """Nobody starts from it any more."""
        self.store.remove(id)

    def leave(self, image: str) -> None:
        """An image is removed from this node: what was made of it goes too."""
        for warm in self.store.images():
            if warm.image == image:
                self.store.remove(warm.id)

    def close(self) -> None:
        """Give up what is being made. A second time does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self.pool.close()
        self._workers.shutdown(cancel_futures=True)
        self._thread.close()

    def _plan(self, machine: Machine) -> Plan:
        manifest, binary = self._images.manifest(machine.image), find_binary()
        accelerator = self._choice.find().accelerator
        return Plan(key_of(machine, manifest, binary, accelerator), machine, manifest, binary, accelerator)

    def _missing(self, plan: Plan) -> str:
        """Why there is none. Unasked, it is not tried again and again where that fails."""
        seen, failed = self.store.seen(plan.key), self._attempts.get(plan.key.id)
        if failed and clock.monotonic() - failed[0] > RETRY_SECONDS:
            failed = None
        if not failed and (self.policy == "always" or (self.policy == "second-use" and seen)):
            self._begin(plan)
        making = plan.key.id in self._makers
        why = none_yet(plan.manifest.name, plan.machine, making)
        return f"{why}: it could not be made: {failed[1]}" if failed and not making else why

    def _begin(self, plan: Plan) -> None:
        with self._lock:
            if plan.key.id in self._makers or self._stop.is_set():
                return
            self._makers[plan.key.id] = None
        self._workers.submit(self._work, plan)

    def _work(self, plan: Plan) -> None:
        maker = Maker(self._layout, self._thread, plan, self._stop)
        self._makers[plan.key.id] = maker
        try:
            self.store.make_room(plan.machine.memory_mib * 1024 * 1024)
            record = maker.make()
            self.store.trust(record)
            self._attempts.pop(plan.key.id, None)
            self.store.make_room(0, keep=record.id)  # its disk was not counted before
        except GivenUp:
            pass
        except Hopeless as e:
            log.warning("no warm image of %s: %s", plan.manifest.name, e)
            self._give_up(plan, e)
        except PaddockError as e:
            log.warning("no warm image of %s yet: %s", plan.manifest.name, e)
            self._failed(plan, e)
        except Exception as e:
            log.exception("BUG: while a warm image of %s was made", plan.manifest.name)
            self._failed(plan, Refused(f"BUG: {e}", hint="see the node's log"))
        finally:
            with self._lock:
                self._makers.pop(plan.key.id, None)

    def _give_up(self, plan: Plan, error: Hopeless) -> None:
        try:
            self.store.give_up(plan.key, plan.manifest.name, error.message)
        except OSError:  # not even room for a note
            self._failed(plan, error)

    def _failed(self, plan: Plan, error: PaddockError) -> None:
        self._errors[plan.key.id] = error
        self._attempts[plan.key.id] = clock.monotonic(), error.message


def _in_making(plan: Plan) -> WarmImage:
    key: Key = plan.key
    return WarmImage(
        id=key.id, image=key.image, name=plan.manifest.name, scope=key.scope, cpus=key.cpus,
        memory_mib=key.memory_mib, disk=plan.machine.system_disk.size, making=True,
    )  # fmt: skip
