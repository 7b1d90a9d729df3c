"""Warm images of the QEMU driver, as far as no guest is needed: what is refused, and what was chosen for the node."""

from pathlib import Path

import pytest

from paddock.base.errors import NotFound, Refused
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Machine, Rescue
from paddock.machine.warm import why_not
from tests.hypervisor.qemu.machines import make_image, make_machine

ABLE = {"guest_agent": True, "cloud_init": True}
KEYS = "#cloud-config\nssh_keys: {ed25519_private: x}\n"


@pytest.fixture
def manifest(tmp_path: Path) -> ImageManifest:
    return make_image(tmp_path / "source").model_copy(update=ABLE)


def wanted(manifest: ImageManifest, **more: object) -> Machine:
    return make_machine(manifest).model_copy(update={"warm": "public", **more})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"warm": ""}, "it was not asked for"),
        ({"warm": "", "firmware": "uefi"}, "it was not asked for"),
        ({"rescue": Rescue(image="0" * 64)}, "it boots its rescue system"),
        ({"iso": "0" * 64}, "it boots from a CD"),
        ({"iso": "0" * 64, "iso_first": False}, ""),
        ({"firmware": "uefi"}, "it boots by UEFI"),
        ({"huge_pages": True}, "its memory is in huge pages"),
    ],
)
def test_why_a_machine_boots(manifest: ImageManifest, change: dict[str, object], why: str) -> None:
    assert why_not(wanted(manifest, **change), manifest) == why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"guest_agent": False}, "image empty has no guest agent"),
        ({"cloud_init": False}, "image empty has no cloud-init"),
        ({"cloud_init": False, "direct_boot": True}, ""),
    ],
)
def test_why_an_image_is_never_warm(manifest: ImageManifest, change: dict[str, object], why: str) -> None:
    image = manifest.model_copy(update=change)
    assert why_not(wanted(image), image) == why


def test_whoever_brings_host_keys_waits_for_cloud_init(manifest: ImageManifest) -> None:
    machine = wanted(manifest)
    with_keys = machine.model_copy(update={"seed": machine.seed.model_copy(update={"user_data": KEYS})})
    assert why_not(with_keys, manifest) == "its user data says what host keys it has"
    assert why_not(machine, manifest, paused=True) == "its guest's CPUs were to stand still"


def test_what_can_not_be_made_is_refused_at_once(host: QemuHypervisor, image: ImageManifest) -> None:
    with pytest.raises(Refused, match="image empty can't be warm: image empty has no guest agent"):
        host.warm.make_warm(wanted(image))
    with pytest.raises(NotFound):
        host.warm.make_warm(wanted(image, image="0" * 64))
    host.warm.remove_warm("0" * 32)
    assert host.warm.warm_images() == ()


def test_a_node_keeps_to_what_was_chosen_for_it(tmp_path: Path) -> None:
    host = QemuHypervisor(tmp_path / "state", "tcg", warm="never", warm_budget=3 * MIB)
    try:
        assert (host.warm.policy, host.warm.store.budget) == ("never", 3 * MIB)
    finally:
        host.close()
