"""`paddock image list --available`, `update` and `prune`: the catalogue, what is newer in it, and the room it takes."""

from typing import Annotated

import typer

from paddock.base.errors import NotFound
from paddock.cli import follow, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import say
from paddock.cli.output import Column, Format, Output, age, file_size, show_json, show_rows, stdout
from paddock.cli.session import api_of
from paddock.cli.wait import NoWait

DAY = 24 * 3600.0  # seconds that a large image may take on a slow line
Images = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Names.", show_default=False)]


def last_use(at: str | None) -> str:
    """When it was last used: 3h ago, or -."""
    return f"{age(at)} ago" if at else "-"


def _boots(entry: Json) -> str:
    return "+".join(entry["firmware"])


def _has(entry: Json) -> str:
    known = (("cloud_init", "cloud-init"), ("guest_agent", "agent"), ("grows", "grows"))
    return ",".join(word for field, word in known if entry[field])


def _signed(entry: Json) -> str:
    """Its publisher, in brackets where its signature can't be checked here."""
    name = entry["signed_by"] or "-"
    return f"({name})" if entry["signature_checked"] is False else str(name)


def _remark(entry: Json) -> str:
    if entry["refused"]:
        return f"refused: {entry['refused']}"
    over = f"unsupported since {entry['ended']}" if entry["ended"] else ""
    return "; ".join(filter(None, (over, entry["note"])))


AVAILABLE = (
    Column("NAME", lambda e: e["name"], least=14),
    Column("STATE", lambda e: e["state"]),
    Column("LOGIN", lambda e: e["default_user"]),
    Column("BOOTS", _boots, drop=3),
    Column("HAS", _has, drop=2),
    Column("SIGNED BY", _signed, drop=4),
    Column("DESCRIPTION", lambda e: e["description"], least=20),
    Column("REMARK", _remark, drop=1, least=20),
)
NEWER = (
    Column("NAME", lambda e: e["name"]),
    Column("FETCHED", lambda e: f"{age(e['fetched'])} ago" if e["fetched"] else "-"),
    Column("VERSION", lambda e: e["version"] or "-", drop=2),
    Column("NEWER", lambda e: e["newer"] or "no"),
    Column("VERIFIED", lambda e: e["verified"] or "-", drop=1, least=20),
)
GOES = (
    Column("WHAT", lambda i: i["kind"]),
    Column("IMAGE", lambda i: i["name"]),
    Column("NODE", lambda i: i["node"] or "-"),
    Column("SIZE", lambda i: file_size(i["bytes"]), right=True),
    Column("USED", lambda i: last_use(i.get("used_at")), drop=1),
    Column("WHY", lambda i: i["why"], least=20),
)


def known(api: Api) -> list[Json]:
    """All that the cloud's catalogue has."""
    found: list[Json] = api.get("/x/v1/catalogue")["catalogue"]
    return found


def available(api: Api, output: Format, *, quiet: bool = False) -> None:
    """Print the catalogue; `quiet`: only the names of what can be had."""
    entries = known(api)
    rows = [e for e in entries if not e["refused"]] if quiet else entries
    show_rows(rows, AVAILABLE, output, quiet=quiet)
    if output is Format.TABLE and not quiet:
        for line in _unchecked(entries):
            stdout().print(line)


def _unchecked(entries: list[Json]) -> list[str]:
    """Whose signatures can't be checked here, and what has their keys: a line for each package."""
    missing: dict[str, set[str]] = {}
    for entry in entries:
        if entry["signature_checked"] is False and not entry["refused"]:
            missing.setdefault(entry["keys_in"] or "", set()).add(entry["signed_by"])
    return [_where_keys_are(package, ", ".join(sorted(names))) for package, names in sorted(missing.items())]


def _where_keys_are(package: str, names: str) -> str:
    if package:
        return f"({names}): signatures are checked once Debian's package {package} is installed where the API runs"
    return f"({names}): signatures are checked once a key ring is in `keys` of the state directory (docs/images.md)"


def update(
    ctx: typer.Context,
    images: Images = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is newer too.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait for what is fetched.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Ask publishers what is newer than the images that are here. Servers keep the disks that they have.

    Examples:
      paddock image update
      paddock image update ubuntu-24.04 --fetch
    """
    api = api_of(ctx)
    chosen = _chosen(api, images or [])
    failed = _each(api, chosen, "look", "looked for")
    names = {e["name"] for e in chosen}
    now = [e for e in known(api) if e["name"] in names]
    if fetch:
        failed |= _each(api, [e for e in now if e["newer"]], "refresh", "fetched", wait=not no_wait)
        now = [e for e in known(api) if e["name"] in names]
    show_rows(now, NEWER, output)
    if output is Format.TABLE and any(e["newer"] for e in now):
        stdout().print("`paddock image update --fetch` fetches what is newer: for new and rebuilt servers")
    if failed:
        raise typer.Exit(1)


def prune(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also images of the catalogue that no server uses; they can be had again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Remove images that no server stands on and that can be had again. What you imported is never touched.

    Examples:
      paddock image prune --dry-run
      paddock image prune --all
    """
    api = api_of(ctx)
    done = api.post("/admin/v1/images/prune", {"everything": everything, "dry_run": dry_run})
    labels = {i["image"]: i["name"] for i in done["items"]}
    jobs = [follow.Job(_label(a, labels), a, collection="actions") for a in done["actions"]]
    if not no_wait:
        _follow(api, jobs, "Waiting until they are removed")
    if output is Format.JSON:
        show_json(done)
    elif not done["items"]:
        stdout().print("there is nothing that could go")
    else:
        show_rows(done["items"], GOES, output)
        said = "could go" if dry_run else "are being removed" if no_wait else "are removed"
        total = file_size(sum(i["bytes"] for i in done["items"]))
        stdout().print(f"{total} in all {said}; what is linked counts more than once")
    if _complain(jobs):
        raise typer.Exit(1)


def _chosen(api: Api, names: list[str]) -> list[Json]:
    """Those that are here and came from a publisher; of these names, if any are given."""
    here = {e["name"]: e for e in known(api) if e["version"] and e["state"] == "ready"}
    if missing := [name for name in names if name not in here]:
        hint = f"there are: {', '.join(here)}" if here else "none was fetched yet"
        raise NotFound(f"no image {missing[0]!r} was fetched from its publisher", hint=hint)
    return [here[name] for name in names] if names else list(here.values())


def _each(api: Api, entries: list[Json], what: str, done: str, *, wait: bool = True) -> bool:
    """Ask for something of each image, and wait for all. Returns whether any failed."""
    jobs = []
    for entry in entries:
        action = api.post(f"/admin/v1/images/{entry['id']}/{what}", {})["action"]
        jobs.append(follow.Job(str(entry["name"]), action, collection="actions"))
    if wait:
        _follow(api, jobs, f"Waiting until they are {done}")
    return _complain(jobs)


def _follow(api: Api, jobs: list[follow.Job], title: str) -> None:
    if not jobs:
        return
    try:
        follow.follow(api, jobs, progress.view(title), DAY)
    except KeyboardInterrupt:
        say("stopped waiting; it goes on", "`paddock action list` shows how far it is")
        raise typer.Exit(130) from None


def _complain(jobs: list[follow.Job]) -> bool:
    for job in jobs:
        if job.problem:
            say(job.complaint, job.hint)
    return any(job.problem for job in jobs)


def _label(action: Json, labels: dict[int, str]) -> str:
    ids = [r["id"] for r in action.get("resources") or () if r.get("type") == "image"]
    return f"image {labels.get(ids[0], ids[0])}" if ids else "image"


def register(app: typer.Typer) -> None:
    """Add the commands to `paddock image`."""
    app.command("update")(update)
    app.command("prune")(prune)
