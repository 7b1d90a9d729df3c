"""`paddock apply -f FILE`: makes the servers of a description exist, and shows first what it would do.

The description is YAML, or cloudMe's lines of `template:count:group:type`. Servers are known again by their names;
those that an earlier apply of the same stack made, and that the description no longer has, go only with --prune.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from paddock.base.errors import Conflict, Invalid, PaddockError
from paddock.cli import ask, follow, keys, lookup, names, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import report
from paddock.cli.output import Column, Format, Output, show_json, show_rows, stdout
from paddock.cli.session import api_of
from paddock.cli.state import state_of

STACK = "paddock.stack"  # the label that says which description a server came from
_OF_YAML = {True: "running", False: "off"}  # YAML reads on and off as true and false
PATIENT = 3600.0  # seconds: images may have to be built first


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Set(_Part):
    """One or several servers alike."""

    name: str = ""
    image: str
    type: str = ""
    count: Annotated[int, Field(ge=0, le=1000)] | None = None
    group: str = ""
    role: str = ""
    ssh_keys: tuple[str | int, ...] = ()
    user_data: str = ""
    user_data_file: Path | None = None
    labels: dict[str, str] = {}
    restart: Literal["no", "on-failure"] = "no"
    placement_group: str = ""
    state: Annotated[Literal["running", "off"], BeforeValidator(lambda s: _OF_YAML.get(s, s))] = "running"

    @model_validator(mode="after")
    def _one_user_data(self) -> "Set":
        if self.user_data and self.user_data_file:
            raise ValueError("give user_data or user_data_file, not both")
        return self

    @property
    def names(self) -> list[str]:
        """web for one, web-1, web-2, ... where a count is given."""
        stem = self.name or "-".join(part for part in (self.group, self.role or self.image) if part)
        return [stem] if self.count is None else [f"{stem}-{n}" for n in range(1, self.count + 1)]


class Description(_Part):
    """A whole stack."""

    stack: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")] = "default"
    type: str = ""
    ssh_keys: tuple[str | int, ...] = ()
    servers: tuple[Set, ...]


@dataclass(frozen=True)
class Change:
    """One thing to do, in words and as a request."""

    server: str
    what: Literal["create", "start", "stop", "label", "delete"]
    why: str
    method: Literal["POST", "PUT", "DELETE"]
    path: str
    body: Json | None = None


COLUMNS = (
    Column("SERVER", lambda c: c["server"], least=12),
    Column("CHANGE", lambda c: c["what"]),
    Column("WHY", lambda c: c["why"], least=20),
)
DONE = {"create": "is created", "start": "is running", "stop": "is off", "label": "is labelled", "delete": "is deleted"}


def apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Option("-f", "--file", help="YAML, or lines of image:count:group:role.")],
    prune: Annotated[bool, typer.Option(help="Delete servers of this stack that it no longer names.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Only show what would be done.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make the servers of a description exist, start and stop as it says. A second time there is nothing to do.

    Examples:
      paddock apply -f stack.yaml --dry-run
      paddock apply -f stack.yaml --prune --yes
      paddock apply -f pftest

    A description:
      stack: shop
      servers:
        - {name: web, image: debian-12, count: 2, group: pf1, role: web}
        - {name: db, image: debian-12, type: small, group: pf1, role: sql}
    """
    api = api_of(ctx)
    wanted = read(file)
    existing = {str(s["name"]).lower(): s for s in api.list("/v1/servers", {"sort": "id:asc"})}
    changes = plan(api, wanted, existing, file.parent, prune=prune)
    if output is Format.JSON:
        show_json([{"server": c.server, "change": c.what, "why": c.why} for c in changes])
    elif changes:
        show_rows([vars(c) for c in changes], COLUMNS, output)
    else:
        stdout().print("nothing to do: all is as described")
    if dry_run or not changes:
        return
    _agree(changes, yes)
    _carry_out(api, changes, quiet=output is Format.JSON)


def read(file: Path) -> Description:
    """The description in a file. Raises Invalid naming the place."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as e:
        raise Invalid(f"{file} can't be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Invalid(f"{file} is no text: {e}") from e
    try:
        given = yaml.safe_load(text)
        if isinstance(given, str):  # no mapping: cloudMe's lines
            given = _from_lines(text, file)
        return Description.model_validate(given)
    except yaml.YAMLError as e:
        raise Invalid(f"{file} is not YAML: {e}") from e
    except ValidationError as e:
        raise _explained(e, file) from e


def _explained(error: ValidationError, file: Path) -> Invalid:
    """Of several mistakes a field that is none comes first: it may be why another is missing. Servers are counted from
    one, as people do."""
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    where = ", ".join(f"number {part + 1}" if isinstance(part, int) else part for part in first["loc"])
    said = {"extra_forbidden": "there is no such field", "missing": "is missing"}.get(first["type"], first["msg"])
    inside = Set if first["loc"][:1] == ("servers",) else Description
    hint = f"there are: {', '.join(inside.model_fields)}" if first["type"] == "extra_forbidden" else ""
    return Invalid(f"{file}: {where + ': ' if where else ''}{said}", hint=hint)


def _from_lines(text: str, file: Path) -> Json:
    sets: list[Json] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        image, count, group, role, *more = [*(part.strip() for part in words.split(":")), "", "", ""]
        if not image or any(more) or not (count or "1").isdigit():
            raise Invalid(f"{file}, line {number}: {words!r} is not image:count:group:role")
        sets.append({"image": image, "count": int(count or 1), "group": group, "role": role})
    return {"stack": file.stem, "servers": sets}


def plan(api: Api, wanted: Description, existing: dict[str, Json], base: Path, *, prune: bool) -> list[Change]:
    """What must be done, in order: first what is new, then what differs, at last what goes."""
    key_ids = keys.chosen(api, [str(k) for k in wanted.ssh_keys])
    changes: list[Change] = []
    named: set[str] = set()
    for part in wanted.servers:
        for name in part.names:
            if name.lower() in named:
                raise Invalid(f"two servers of the description are called {name}", field="file")
            if not names.VALID.fullmatch(name):
                raise Invalid(f"{name!r} is no name for a server", field="file", hint="a-z, 0-9, - and . only")
            named.add(name.lower())
            found = existing.get(name.lower())
            changes += _differences(part, found, wanted) if found else [_new(api, part, name, wanted, key_ids, base)]
    gone = [s for n, s in existing.items() if n not in named and s["labels"].get(STACK) == wanted.stack]
    return changes + [_end(s) for s in gone if prune]


def _new(api: Api, part: Set, name: str, wanted: Description, key_ids: Sequence[int], base: Path) -> Change:
    image = lookup.find(api, "images", part.image)
    body: dict[str, Any] = {
        "name": name, "image": image["id"], "server_type": _type(api, part.type or wanted.type, image)["name"],
        "ssh_keys": keys.chosen(api, [str(k) for k in part.ssh_keys]) if part.ssh_keys else list(key_ids),
        "labels": {**part.labels, STACK: wanted.stack}, "x_group": part.group, "x_role": part.role,
        "x_restart": part.restart, "user_data": _user_data(part, base), "start_after_create": part.state == "running",
    }  # fmt: skip
    if part.placement_group:
        body["placement_group"] = lookup.find(api, "placement_groups", part.placement_group)["id"]
    why = f"from {part.image}, type {body['server_type']}"
    return Change(name, "create", why, "POST", "/v1/servers", body)


def _type(api: Api, ref: str, image: Json) -> Json:
    if ref:
        return lookup.find(api, "server_types", ref)
    need = float(image.get("disk_size") or 0)
    fitting = [t for t in sorted(api.list("/v1/server_types"), key=lambda t: int(t["id"])) if t["disk"] >= need]
    if not fitting:
        raise Invalid(f"no server type holds image {image['name']}", field="type")
    return fitting[0]


def _user_data(part: Set, base: Path) -> str:
    if part.user_data_file is None:
        return part.user_data
    path = base / part.user_data_file
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise Invalid(f"{path} can't be read: {e}", field="user_data_file") from e


def _differences(part: Set, server: Json, wanted: Description) -> list[Change]:
    """What can be changed in place. Another image or type needs a decision, and is refused with the command for it."""
    name, path = str(server["name"]), f"/v1/servers/{server['id']}"
    image = (server.get("image") or {}).get("name")
    if image != part.image and str((server.get("image") or {}).get("id")) != part.image:
        raise Conflict(
            f"{name} is made from {image}, and the description says {part.image}",
            hint=f"`paddock server rebuild {name} {part.image}` loses its data; or give it another name",
        )
    plan = part.type or wanted.type
    if plan and server["server_type"]["name"] != plan:
        raise Conflict(
            f"{name} is of type {server['server_type']['name']}, and the description says {plan}",
            hint=f"`paddock stop {name} && paddock server change-type {name} {plan}`",
        )
    changes: list[Change] = []
    labels = {**server["labels"], **part.labels, STACK: wanted.stack}
    if labels != server["labels"]:
        changes.append(Change(name, "label", "its labels differ", "PUT", path, {"labels": labels}))
    if part.state == "running" and state_of(server) in ("off", "paused", "hibernated"):
        changes.append(Change(name, "start", f"it is {state_of(server)}", "POST", f"{path}/actions/poweron"))
    if part.state == "off" and state_of(server) == "running":
        changes.append(Change(name, "stop", "it runs", "POST", f"{path}/actions/shutdown"))
    return changes


def _end(server: Json) -> Change:
    why = "the description no longer has it"
    return Change(str(server["name"]), "delete", why, "DELETE", f"/v1/servers/{server['id']}")


def _agree(changes: Sequence[Change], yes: bool) -> None:
    if yes:
        return
    if ask.at_terminal():
        if not typer.confirm(f"Do these {len(changes)} changes?", err=True):
            raise typer.Exit(1)
    elif lost := [c.server for c in changes if c.what == "delete"]:
        raise Conflict(f"this would delete {', '.join(lost)}", hint="if you mean it: --yes")


def _carry_out(api: Api, changes: Sequence[Change], *, quiet: bool) -> None:
    """Ask for all, then wait for all. One that fails stops no other."""
    jobs: list[tuple[Change, follow.Job]] = []
    failed = False
    for change in changes:
        try:
            answer = _send(api, change)
        except PaddockError as error:
            report(type(error)(f"{change.server}: {error.message}", hint=error.hint, field=error.field))
            failed = True
            continue
        action = answer.get("action") or {"id": 0, "status": "success"}
        jobs.append((change, follow.Job(change.server, action, collection="actions")))
    running = [job for _, job in jobs]
    follow.follow(api, running, progress.view(f"Applying {len(running)} changes"), PATIENT)
    for change, job in jobs:
        if job.problem:
            report(PaddockError(f"{job.label}: {job.problem}", hint=job.hint))
        elif not quiet:
            stdout().print(f"{job.label} {DONE[change.what]}")
    if failed or any(job.problem for job in running):
        raise typer.Exit(1)


def _send(api: Api, change: Change) -> Json:
    if change.method == "DELETE":
        return api.delete(change.path)
    if change.method == "PUT":
        return api.put(change.path, change.body or {})
    return api.post(change.path, change.body)
