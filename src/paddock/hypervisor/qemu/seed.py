"""What cloud-init's NoCloud source reads from a machine's second disk: pure texts, and the ISO that holds them."""

import io
import json
import re
from typing import Any

import pycdlib
import yaml

from paddock.machine.spec import Machine, Rescue, Seed

LABEL = "cidata"  # NoCloud looks for a file system of this label
RESCUE_NAME = "rescue"  # what a rescue system calls itself, so that nobody takes it for the server
BASE_MARK = "# The cloud's base configuration."  # `tiny` reads up to here: what follows is for cloud-init alone
# Lists of the user's data and of ours are joined, ours first. cloud-init takes `merge_how` off when it reads a part,
# and goes by `merge_type` when it lays the user's data over it (22.4: cloudinit/mergers, util.mergemanydict).
_JOINED = "dict(no_replace,recurse_list)+list(prepend)+str()"
# A network card that a guest can't know yet.
ANY_CARD = 'version: 2\nethernets:\n  nic0:\n    match:\n      name: "e*"\n    dhcp4: true\n'
_STEP = 256 * 1024  # bytes
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def seed_files(machine: Machine) -> dict[str, str]:
    """The files of the seed by name."""
    return {
        "meta-data": _meta_data(machine.seed),
        "user-data": machine.seed.user_data or "#cloud-config\n{}\n",
        "vendor-data": _vendor_data(machine.seed),
        "network-config": _network_config(machine.network.mac),
    }


def rescue_files(machine: Machine, rescue: Rescue) -> dict[str, str]:
    """The files of what its rescue system is told: an instance of its own, with the rescue's keys and password."""
    seed = Seed(
        instance_id=f"{machine.seed.instance_id}-rescue",
        hostname=RESCUE_NAME,
        ssh_keys=rescue.ssh_keys,
        password_hash=rescue.password_hash,
    )
    return seed_files(machine.model_copy(update={"seed": seed}))


def seed_iso(files: dict[str, str]) -> bytes:
    """An ISO 9660 image with Joliet and Rock Ridge names that holds the files. Nearly all have the same size, so that
    a guest that starts from a warm image finds the CD as large as it knew it."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    try:
        for name, text in files.items():
            data = text.encode()
            plain = name.upper().replace("-", "_")
            iso.add_fp(io.BytesIO(data), len(data), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}")
        out = io.BytesIO()
        iso.write_fp(out)
        return out.getvalue() + bytes(-len(out.getvalue()) % _STEP)
    finally:
        iso.close()


def _meta_data(seed: Seed) -> str:
    lines = [f"instance-id: {_scalar(seed.instance_id)}", f"local-hostname: {_scalar(seed.hostname)}"]
    if seed.ssh_keys:
        lines += ["public-keys:", *(f"  - {json.dumps(key.strip(), ensure_ascii=False)}" for key in seed.ssh_keys)]
    return "\n".join(lines) + "\n"


def _vendor_data(seed: Seed) -> str:
    """Lies under the user's own data: whatever that says too, it wins. The SSH keys come by meta-data."""
    own = _own_vendor_data(seed)
    return _with_base(own, seed.vendor_data) if seed.vendor_data else own


def _with_base(own_text: str, base_text: str) -> str:
    """Ours and the cloud's base configuration as one document: cloud-init takes no two of them."""
    own: dict[str, Any] = yaml.load(own_text, yaml.CSafeLoader)
    base: dict[str, Any] = yaml.load(base_text, yaml.CSafeLoader) or {}
    own_files, base_files = own.pop("write_files", []), base.pop("write_files", [])
    written = {"write_files": [*own_files, *base_files]} if own_files or base_files else {}
    rest = {"merge_how": _JOINED, "merge_type": _JOINED, **written, **base}
    rest = {key: value for key, value in rest.items() if key not in own}
    return f"#cloud-config\n{_yaml(own)}{BASE_MARK}\n{_yaml(rest)}"


def _yaml(fields: dict[str, Any]) -> str:
    text: str = yaml.dump(fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=200)
    return text


class _Dumper(yaml.CSafeDumper):
    """Texts of several lines as people write them."""


def _shown(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _shown)


def _own_vendor_data(seed: Seed) -> str:
    lines = ["#cloud-config", "disable_root: false", "manage_etc_hosts: localhost"]
    lines += [f"ssh_pwauth: {'true' if seed.password_hash else 'false'}"]
    if seed.password_hash:
        lines += _root_password(seed.password_hash)
    return "\n".join(lines) + "\n"


def _root_password(password_hash: str) -> list[str]:
    return [
        "chpasswd:",
        "  expire: false",
        "  users:",
        f"    - {{name: root, type: hash, password: {json.dumps(password_hash)}}}",
        "write_files:",
        "  - path: /etc/ssh/sshd_config.d/10-paddock.conf",
        '    permissions: "0600"',
        r'    content: "PermitRootLogin yes\n"',
    ]


def _network_config(mac: str) -> str:
    return (
        f"version: 2\nethernets:\n  nic0:\n    match:\n      macaddress: {json.dumps(mac.lower())}\n    dhcp4: true\n"
    )


def _scalar(text: str) -> str:
    """A YAML string: plain where nobody could take it for a number or a truth value."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS else json.dumps(text, ensure_ascii=False)
