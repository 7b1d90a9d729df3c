"""The base configuration of servers: what cloud-init in a guest is told beneath the user's own data.

Ours is in base.yaml; an operator may put another in its place. A server keeps what was in force when its disk was made.
"""

from datetime import datetime
from importlib.resources import files
from typing import Any

import yaml
from django.db.models.functions import Now

from paddock.base.errors import Invalid
from paddock.cloud.models import BaseConfiguration, Server
from paddock.machine.spec import MAX_VENDOR_DATA

HEADER = "#cloud-config"
# What Paddock itself tells each guest: it would go by this and not by the base configuration.
OWN = ("disable_root", "manage_etc_hosts", "ssh_pwauth", "chpasswd", "merge_how", "merge_type")
_ONE = 1  # the id of the only row
_DEEPEST = 50  # lists and mappings within each other
_OPENS = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def default() -> str:
    """Paddock's own."""
    return (files("paddock.cloud") / "base.yaml").read_text(encoding="utf-8")


def current() -> tuple[str, datetime | None]:
    """What new servers get, and since when that is the operator's own; None: it is the default."""
    row = BaseConfiguration.objects.filter(pk=_ONE).first()
    return (row.text, row.changed) if row else (default(), None)


def for_server(server: Server) -> str:
    """What a server gets with a new disk."""
    return current()[0] if server.base_config else ""


def replace(text: str) -> None:
    """Put another in its place, for servers and rebuilds from now on. Raises Invalid naming the line."""
    check(text)
    BaseConfiguration.objects.update_or_create(pk=_ONE, defaults={"text": text, "changed": Now()})


def reset() -> None:
    """Back to the default."""
    BaseConfiguration.objects.filter(pk=_ONE).delete()


def check(text: str) -> None:
    """Raises Invalid unless it is a cloud-config that can be laid beneath a user's."""
    size = len(text.encode())
    if size > MAX_VENDOR_DATA:
        raise _invalid(f"it has {size} bytes, {size - MAX_VENDOR_DATA} more than the {MAX_VENDOR_DATA} there may be")
    if text.partition("\n")[0].rstrip() != HEADER:
        raise _invalid(f"its first line must be {HEADER}", "scripts go into it as files to write, and commands to run")
    config = _parsed(text)
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise _invalid("it must be a mapping of cloud-init's keys", f"an empty one is {HEADER} and a line with {{}}")
    if own := [key for key in OWN if key in config]:
        raise _invalid(f"{own[0]} is what Paddock itself says to each guest", "leave it out")
    for name in ("write_files", "runcmd", "bootcmd", "packages"):
        if name in config and not isinstance(config[name], list):
            raise _invalid(f"{name} must be a list")


def _parsed(text: str) -> Any:
    try:
        _refuse_endless(text)
        return yaml.load(text, yaml.CSafeLoader)  # as nodes read it
    except yaml.MarkedYAMLError as e:
        where = f" in line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise _invalid(f"it is not YAML: {e.problem or e.context}{where}") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # a date that is none, control characters, too deep
        raise _invalid(f"it is not YAML: {e}") from e


def _refuse_endless(text: str) -> None:
    """A few lines of aliases can stand for gigabytes, and a line of brackets is read for minutes."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise _invalid("it must have no YAML aliases (*name)", "write it out")
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > _DEEPEST:
            raise _invalid(f"it has more than {_DEEPEST} lists and mappings within each other")


def _invalid(message: str, hint: str = "") -> Invalid:
    return Invalid(f"the base configuration can't be used: {message}", hint=hint, field="text")
