"""What was chosen: `paddock.toml` in the state directory."""

import tomllib
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from paddock.base.errors import Invalid
from paddock.base.statedir import DATABASE_ENV as DATABASE_ENV
from paddock.base.statedir import STATE_ENV as STATE_ENV
from paddock.base.statedir import StateDir as StateDir
from paddock.base.statedir import default_state_dir as default_state_dir


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(_Section):
    """`[api]`"""

    host: str = "127.0.0.1"  # anything but loopback is served by TLS
    port: Annotated[int, Field(ge=1, le=65535)] = 7480
    public_url: Annotated[str, Field(pattern=r"^(https?://[^/?#\s]+)?$")] = ""  # where others reach it, if not there
    rate_limit: Annotated[int, Field(ge=0)] = 36000  # requests per hour and project, in each API process; 0: none
    tls_cert: Path | None = None  # your own certificate (with its chain) and key, instead of one of our CA
    tls_key: Path | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it, so that it may be plain HTTP."""
        return is_loopback(self.host)

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return not self.loopback or self.tls_cert is not None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> "ApiSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


class DatabaseSettings(_Section):
    """`[database]`: empty means the embedded one."""

    url: Annotated[str, Field(pattern=r"^(postgres(ql)?://.*)?$")] = ""


class PlacementSettings(_Section):
    """`[placement]`"""

    strategy: Literal["round-robin", "free-room"] = "round-robin"


class ImagesSettings(_Section):
    """`[images]`: what projects may import, and where the catalogue's come from."""

    allow_private_addresses: bool = False  # by URL also from addresses that are not of the open internet
    max_gib: Annotated[int, Field(ge=1)] = 64  # of one, unpacked
    mirror: Annotated[str, Field(pattern=r"^(https?://[^?#\s]+)?$")] = (
        ""  # MIRROR/<host>/<path> for what others publish
    )
    require_signatures: bool = False  # refuse images of the catalogue whose signature is not checked
    ca_file: Path | None = None  # PEM: authorities that are trusted besides this host's, for URLs of https


class NodeSettings(_Section):
    """`[[node]]`: a node on this host. Capacity left out is what the host has."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
    driver: Literal["qemu", "fake"] = "qemu"
    state_dir: Path | None = None
    first_id: Annotated[int, Field(ge=1)] = 1000
    first_ssh_port: Annotated[int, Field(ge=1, le=65535)] = 2200
    ssh_ports: Annotated[int, Field(ge=1, le=10000)] = 100
    ssh_address: str = "127.0.0.1"
    cpus: Annotated[int | None, Field(ge=1)] = None
    memory_mib: Annotated[int | None, Field(ge=64)] = None
    disk_gib: Annotated[int | None, Field(ge=1)] = None
    cpu_overcommit: Annotated[float, Field(gt=0, le=64)] = 4.0
    memory_overcommit: Annotated[float, Field(gt=0, le=16)] = 1.0
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    warm: Literal["never", "second-use", "always"] = "second-use"  # when warm images are made unasked
    warm_budget_gib: Annotated[int, Field(ge=0)] = 20  # of disk, that all of them together may take
    shared: bool | None = None  # whether servers of several projects may be on it; None: where strangers are isolated

    @property
    def may_be_shared(self) -> bool:
        """Whether it was said so; unsaid, only the fake's machines can't reach this host's loopback."""
        return self.driver == "fake" if self.shared is None else self.shared


class Settings(_Section):
    """All of `paddock.toml`; without the file, a cloud of one node."""

    api: ApiSettings = ApiSettings()
    database: DatabaseSettings = DatabaseSettings()
    placement: PlacementSettings = PlacementSettings()
    images: ImagesSettings = ImagesSettings()
    node: tuple[NodeSettings, ...] = (NodeSettings(name="n1"),)
    workers: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _nodes_do_not_overlap(self) -> "Settings":
        if len({n.name for n in self.node}) < len(self.node):
            raise ValueError("two nodes have the same name")
        ranges = sorted((n.first_ssh_port, n.first_ssh_port + n.ssh_ports, n.name) for n in self.node)
        for (_, end, first), (start, _, second) in pairwise(ranges):
            if start < end:
                raise ValueError(f"the SSH ports of nodes {first} and {second} overlap")
        return self


def load(config: Path) -> Settings:
    """Read `paddock.toml`. Raises Invalid naming the file and the key."""
    try:
        text = config.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as e:
        raise Invalid(f"{config} can't be read: {e}") from e
    return parse(text, str(config))


def parse(text: str, name: str) -> Settings:
    """The settings in a TOML text. Raises Invalid naming `name` and the key."""
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise Invalid(f"{name} is not TOML: {e}") from e
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{name}: {key + ': ' if key else ''}{first['msg']}", field=key) from e
