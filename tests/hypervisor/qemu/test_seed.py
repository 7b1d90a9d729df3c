"""What cloud-init is told, against golden files, and read back from the ISO."""

import io
from importlib.resources import files
from pathlib import Path

import pycdlib
import pytest
import yaml

from paddock.base.run import run
from paddock.hypervisor.qemu.seed import LABEL, rescue_files, seed_files, seed_iso
from paddock.machine.image import ImageFile, ImageManifest, Role
from paddock.machine.spec import Machine, Rescue, Seed
from tests.hypervisor.qemu.golden import same_as_golden
from tests.hypervisor.qemu.machines import UUID_1, make_machine

IMAGE = ImageManifest(name="i", disk_size=512, files=(ImageFile(role=Role.DISK, sha256="d" * 64, size=1),))
FULL = Seed(
    instance_id=str(UUID_1),
    hostname="web-1",
    ssh_keys=("ssh-ed25519 AAAAC3Nz me@laptop", 'ssh-rsa AAAAB3Nz "quoted", ümlaut 🐎\n'),
    user_data="#!/bin/sh\necho hello\n",
    password_hash="$6$salt$hash",
)


def machine(seed: Seed) -> Machine:
    return make_machine(IMAGE, uuid=UUID_1).model_copy(update={"seed": seed})


def shown(seed: Seed) -> str:
    return "".join(f"--- {name}\n{text}" for name, text in seed_files(machine(seed)).items())


def test_a_full_seed() -> None:
    same_as_golden("seed-full.txt", shown(FULL))


def test_the_least_seed() -> None:
    same_as_golden("seed-least.txt", shown(Seed(instance_id="i-1", hostname="a")))


@pytest.mark.parametrize("name", ["123", "1e5", "true", "NO", "null", "0x1f", "1.5"])
def test_a_hostname_stays_a_string(name: str) -> None:
    text = seed_files(machine(Seed(instance_id="i", hostname=name)))["meta-data"]
    assert f'local-hostname: "{name}"\n' in text


def test_the_iso_holds_the_files() -> None:
    files = seed_files(machine(FULL))
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed_iso(files)))
    assert iso.pvd.volume_identifier.decode().strip() == LABEL
    for name, text in files.items():
        for path in ({"joliet_path": f"/{name}"}, {"rr_path": f"/{name}"}):
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, **path)
            assert out.getvalue().decode() == text
    iso.close()


def test_a_seed_of_the_largest_user_data() -> None:
    files = seed_files(machine(FULL.model_copy(update={"user_data": "#" + "ü" * 16000})))
    assert files["user-data"].encode() in seed_iso(files)


def test_a_rescue_system_has_a_seed_of_its_own() -> None:
    rescue = Rescue(image="e" * 64, ssh_keys=("ssh-ed25519 AAAAC3Nz rescuer",), password_hash="$6$other$hash")
    files = rescue_files(machine(FULL), rescue)
    same_as_golden("seed-rescue.txt", "".join(f"--- {name}\n{text}" for name, text in files.items()))


BASE = """#cloud-config
packages: [chrony]
write_files:
  - path: /etc/sysctl.d/60-paddock.conf
    content: |
      vm.swappiness = 10
users: [{name: ops, passwd: $6$salt$ops, ssh_authorized_keys: [ssh-ed25519 AAAAC3Nz ops]}]
ssh_pwauth: true
"""


def test_the_base_configuration_is_joined_with_ours() -> None:
    seed = FULL.model_copy(update={"vendor_data": BASE})
    text = seed_files(machine(seed))["vendor-data"]
    same_as_golden("seed-base.txt", text)
    told = yaml.safe_load(text)
    assert told["ssh_pwauth"] is True, "ours wins: there is a password"
    assert [file["path"] for file in told["write_files"]][1] == "/etc/sysctl.d/60-paddock.conf"
    without = seed.model_copy(update={"password_hash": ""})
    assert yaml.safe_load(seed_files(machine(without))["vendor-data"])["ssh_pwauth"] is False


def test_tiny_takes_nothing_out_of_the_base_configuration(tmp_path: Path) -> None:
    """Its awk script, with this host's awk: keys and passwords of the base configuration are not root's."""
    for name, text in seed_files(machine(FULL.model_copy(update={"vendor_data": BASE}))).items():
        (tmp_path / name).write_text(text)
    found = tmp_path / "identity"
    found.mkdir()
    script = (files("paddock.images") / "guest/tiny-seed.awk").read_text().replace("/run/identity", str(found))
    run(["awk", script, "meta-data", "vendor-data", "user-data"], cwd=tmp_path)
    assert (found / "password").read_text() == "$6$salt$hash\n"
    assert "ops" not in (found / "keys").read_text()
