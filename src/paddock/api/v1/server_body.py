"""What may be asked of a new server, and of one that is there.

Fields for what this cloud lacks are taken while they ask for nothing: clients send `networks: []` and `firewalls: null`
for what their user did not ask for.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from paddock.api.errors import unsupported
from paddock.api.v1.common import Body, IdOrName, Labels, Line
from paddock.machine.spec import MAX_USER_DATA

_PART = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
MAX_KEYS, MAX_VOLUMES = 100, 16


def check_name(name: str) -> str:
    """RFC 1123: labels of a-z 0-9 -, joined by dots (C10)."""
    if not 0 < len(name) <= 253 or not all(_PART.fullmatch(part) for part in name.split(".")):
        raise ValueError("must be a host name: letters a-z, digits, - and . only, like web-1 or www.example.com")
    return name


def check_user_data(text: str) -> str:
    """At most 32 KiB of text."""
    size = len(text.encode())
    if size > MAX_USER_DATA:
        raise ValueError(f"has {size} bytes, {size - MAX_USER_DATA} more than the {MAX_USER_DATA} there may be")
    return text


def _public_net(given: Any) -> Any:
    """Whether public addresses are wanted changes nothing yet; a particular one can't be had."""
    if not isinstance(given, dict):
        raise ValueError("must be an object")
    for name in ("enable_ipv4", "enable_ipv6"):
        if not isinstance(given.get(name), bool | None):
            raise ValueError(f"{name} must be true or false")
    return {name: given[name] for name in ("ipv4", "ipv6") if given.get(name) is not None}


Name = Annotated[str, AfterValidator(check_name)]
UserData = Annotated[str, AfterValidator(check_user_data)]
Description = Annotated[Line, Field(max_length=500)]
KernelArgs = Annotated[Line, Field(max_length=1024)]
Restart = Literal["no", "on-failure"]
Tag = Annotated[str, Field(pattern=r"^([a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?)?$")]


class Autostart(Body):
    """Whether a server is started when its node comes up: lower orders first, the next ones `delay` seconds later. What
    is left out stays as it is."""

    enabled: StrictBool | None = None
    order: Annotated[int, Field(ge=0, le=9999)] | None = None
    delay: Annotated[int, Field(ge=0, le=3600, description="seconds")] | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """What it changes of the row."""
        said = {"autostart": self.enabled, "autostart_order": self.order, "autostart_delay": self.delay}
        return {name: value for name, value in said.items() if value is not None}


class CreateServer(Body):
    """What a new server shall be."""

    name: Name
    server_type: IdOrName
    image: IdOrName | None = None  # may be left out where there is x_iso
    location: IdOrName | None = None
    datacenter: IdOrName | None = None
    ssh_keys: Annotated[list[IdOrName], Field(max_length=MAX_KEYS)] = []
    user_data: UserData = ""
    labels: Labels = {}
    start_after_create: bool = True
    automount: StrictBool = False  # of its volumes
    networks: list[Any] = []
    volumes: Annotated[list[int], Field(max_length=MAX_VOLUMES)] = []
    firewalls: list[Any] = []
    placement_group: int | None = None
    public_net: Annotated[dict[str, Any], BeforeValidator(_public_net)] = {}
    x_group: Tag = ""
    x_role: Tag = ""
    x_restart: Restart = "no"
    x_start_paused: bool = False
    x_node: Line | None = None  # on this one; for operators
    x_description: Description = ""
    x_kernel_args: KernelArgs = ""  # after the image's own
    x_autostart: Autostart = Autostart()
    x_iso: IdOrName | None = None  # in its CD drive; without an image its disk is empty, and the CD is booted
    x_firmware: Literal["bios", "uefi"] | None = None  # left out: as its image says
    x_warm: StrictBool = True  # may begin from the memory of a guest that has booted already
    x_base_config: StrictBool = True  # the cloud's base configuration beneath its user data

    def check_supported(self) -> None:
        """Raises ApiError naming the field that asks for what does not exist here."""
        for field in ("networks", "firewalls", "public_net"):
            if getattr(self, field):
                name = f"{field}.{next(iter(self.public_net))}" if field == "public_net" else field
                raise unsupported(name, "this cloud has none of these yet; leave it out")


class ChangeServer(Body):
    """What may be changed of a server. Other kernel arguments are for its next start."""

    name: Name | None = None
    labels: Labels | None = None
    x_group: Tag | None = None
    x_role: Tag | None = None
    x_restart: Restart | None = None
    x_description: Description | None = None
    x_kernel_args: KernelArgs | None = None
    x_autostart: Autostart | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """What it changes of the row."""
        said = self.model_dump(exclude_unset=True, exclude={"x_autostart"})
        own = self.x_autostart.columns if self.x_autostart else {}
        return {name.removeprefix("x_"): value for name, value in said.items()} | own


class Rebuild(Body):
    image: IdOrName
    user_data: UserData | None = None  # left out: what it had


class Rescue(Body):
    type: Literal["linux64"] = "linux64"
    ssh_keys: Annotated[list[IdOrName], Field(max_length=MAX_KEYS)] = []


class ChangeType(Body):
    server_type: IdOrName
    upgrade_disk: bool
    x_live: bool = False  # add CPUs and memory while it runs


class ResetPassword(Body):
    x_offline: bool = False


class Snapshot(Body):
    type: Literal["snapshot", "backup"] = "snapshot"
    description: Annotated[Line, Field(max_length=200)] = ""
    labels: Labels = {}


class AttachIso(Body):
    iso: IdOrName


class ProtectServer(Body):
    delete: bool | None = None
    rebuild: bool | None = None


class JoinGroup(Body):
    placement_group: int


class DnsPtr(Body):
    ip: str
    dns_ptr: str | None = None


class Network(Body):
    network: int


class AttachNetwork(Network):
    ip: str | None = None
    ip_range: str | None = None
    alias_ips: list[str] = []


class AliasIps(Network):
    alias_ips: list[str]
