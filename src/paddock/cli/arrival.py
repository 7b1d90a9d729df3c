"""How images and ISOs come to the cloud: a file of this machine or what an address has; announced, sent, taken in.

An upload that was stopped or cut off is gone on with by the same command, if it is the same file: its checksum tells.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import unquote, urlsplit

import typer

from paddock.base.errors import Conflict, Invalid, NameTaken, NotFound, PaddockError, Unavailable
from paddock.cli import follow, progress, upload
from paddock.cli.client import Api, Json
from paddock.cli.fail import say
from paddock.cli.output import Format, clean, file_size, show_json, stderr, stdout

PATIENT = 24 * 3600.0  # seconds; the control plane gives up earlier, and says why
SUFFIXES = {".qcow2", ".qcow", ".raw", ".img", ".iso", ".xz", ".gz", ".zst", ".bz2", ".vmdk", ".vhdx", ".vdi"}
THE_CLOUDS = ("system", "public")  # types of what everybody may use
ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """What an image and an ISO differ in here: their words, and where the API has them."""

    noun: str
    collection: str
    own: str
    use: str

    @property
    def key(self) -> str:
        return self.collection.rstrip("s")

    def content(self, thing: Json) -> str:
        """Where its bytes are sent to."""
        return f"/x/v1/{self.collection}/{thing['id']}/content"


IMAGE = Kind("image", "images", "/v1/images", "use it: paddock launch {name}")
ISO = Kind("ISO", "isos", "/x/v1/isos", "put it into a drive: paddock server attach-iso SERVER {name}")


@dataclass(frozen=True)
class Wish:
    """What shall come: `about` is its announcement, `given` what that of an earlier try must agree in, `boot` the files
    by name that come before its disk."""

    kind: Kind
    about: Json
    given: Json
    wait: bool = True
    output: Format = Format.TABLE
    boot: Mapping[str, Path] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.kind.noun} {self.about['name']}"


def place(file: str, url: str) -> tuple[Path | None, str]:
    """The file or the address that is meant; an address may stand in the file's place. Raises typer.BadParameter."""
    if "://" in file and not url:
        file, url = "", file
    if bool(file) == bool(url):
        raise typer.BadParameter("Give either a file or --url" if file else "Missing argument 'FILE', or --url")
    if url and not ADDRESS.match(url):
        raise typer.BadParameter(f"{url!r} is no address: it begins with http:// or https://")
    return (Path(file).expanduser() if file else None), url


def name_of(file: Path | None, url: str) -> str:
    """A name made of the file's: Debian_12.qcow2 becomes debian-12. Raises Invalid when nothing is left of it."""
    path = PurePosixPath(file.name if file else unquote(urlsplit(url).path)) if file or url else PurePosixPath()
    while path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    name = re.sub(r"[^a-z0-9.]+", "-", path.name.lower()).strip("-.")[:63].rstrip("-.")
    if not name:
        raise Invalid("there is no name to be made of this", hint="give one: --name", field="name")
    return name


def bring(api: Api, wish: Wish, file: Path | None, sha256: str) -> None:
    """Import what is wished from the file, or from the wish's address. Raises typer.Exit(1) when that failed, 130 on
    Ctrl-C, and what the API refuses."""
    wanted = upload.checked_sha256(sha256)
    if file:
        for path in (*wish.boot.values(), file):
            upload.look_at(path)
        _check_free(api, wish)  # reading a large file takes a while
    boot = {name: upload.read(path, "") for name, path in wish.boot.items()}
    source = upload.read(file, wanted) if file else None
    wish = _promising(wish, source.sha256 if source else wanted, boot)
    answer = _announce(api, wish, source)
    thing, action = answer[wish.kind.key], answer.get("action")
    if source and thing["x_state"] != "building":
        for name, part in boot.items():
            _send(api, wish, thing, part, {"file": name})
        sent = _send(api, wish, thing, source)
        thing, action = sent.get(wish.kind.key) or thing, sent.get("action")
    if wish.wait:
        _await(api, wish, thing, action or {})
    else:
        stderr().print(f"{wish.label} is accepted; `{_command(wish, 'show')}` shows how far it is")
    _tell(api, wish, thing)


def _promising(wish: Wish, sha256: str, boot: Mapping[str, upload.Source]) -> Wish:
    """It announces the checksums of what is to come."""
    about = {**wish.about, **({"sha256": sha256} if sha256 else {})}
    if boot:
        about["boot"] = {**wish.about.get("boot", {}), **{name: {"sha256": s.sha256} for name, s in boot.items()}}
    return replace(wish, about=about)


def _command(wish: Wish, verb: str) -> str:
    return f"paddock {wish.kind.key} {verb} {wish.about['name']}"


def _check_free(api: Api, wish: Wish) -> None:
    """Raises Conflict when the name is that of something that is there."""
    for thing in api.list(f"/v1/{wish.kind.collection}", {"name": wish.about["name"]}):
        if thing["x_state"] == "ready" or thing.get("type") in THE_CLOUDS:
            _refuse(wish, thing)


def _refuse(wish: Wish, earlier: Json) -> NoReturn:
    """Say what stands in the way."""
    if earlier.get("type") in THE_CLOUDS:
        raise NameTaken(f"there is an {wish.label} of the cloud's own", hint="choose another name: --name")
    what, hint = {
        "ready": ("is there already", f"choose another --name, or `{_command(wish, 'delete')}` first"),
        "building": ("is on its way already", f"`{_command(wish, 'show')}` shows how far it is"),
        "absent": ("waits for an upload that was begun", f"`{_command(wish, 'delete')}` gives that up"),
    }[earlier["x_state"]]
    raise Conflict(f"{wish.label} {what}", hint=hint)


def _announce(api: Api, wish: Wish, source: upload.Source | None) -> Json:
    """A new row, or that of an earlier try."""
    try:
        return api.post(f"/x/v1/{wish.kind.collection}", wish.about)
    except NameTaken:
        earlier = _earlier(api, wish)
    if earlier["x_state"] == "failed" and earlier.get("type") not in THE_CLOUDS:
        stderr().print(f"{wish.label} of an earlier try failed ({clean(earlier['x_problem'])}); trying anew")
        _remove(api, wish, earlier)
        return api.post(f"/x/v1/{wish.kind.collection}", wish.about)
    if source is None or earlier["x_state"] == "ready" or earlier.get("type") in THE_CLOUDS:
        _refuse(wish, earlier)
    _check_same(api, wish, earlier)
    return {wish.kind.key: earlier}


def _earlier(api: Api, wish: Wish) -> Json:
    """What has the name. Raises NameTaken when nothing of this kind has it: names are of images and ISOs alike."""
    found = api.list(f"/v1/{wish.kind.collection}", {"name": wish.about["name"]})
    if not found:
        raise NameTaken(f"the name {wish.about['name']} is taken", hint="choose another: --name")
    return found[0]


def _check_same(api: Api, wish: Wish, earlier: Json) -> None:
    """Raises Conflict when what was begun is of another file, or was announced differently."""
    here = api.get(wish.kind.content(earlier))
    give_up = f"`{_command(wish, 'delete')}` gives it up"
    if here.get("sha256") != wish.about.get("sha256"):
        raise Conflict(f"an upload of {wish.label} was begun with another file", hint=f"{give_up}; or use --name")
    _check_same_boot(api, wish, earlier, give_up)
    shown = {key: earlier.get(key) for key in wish.given}
    if wrong := [key.removeprefix("x_").replace("_", " ") for key, value in wish.given.items() if shown[key] != value]:
        raise Conflict(
            f"the upload of {wish.label} was begun with another {' and '.join(wrong)}", hint=f"give that; or {give_up}"
        )


def _check_same_boot(api: Api, wish: Wish, earlier: Json, give_up: str) -> None:
    """Raises Conflict when what was begun has a kernel and this has none, or another one, or the other way round."""
    if (earlier.get("x_cmdline") is not None) != bool(wish.boot):
        raise Conflict(f"the upload of {wish.label} was begun {'without' if wish.boot else 'with'} a kernel of its own",
                       hint=give_up)  # fmt: skip
    for name in wish.boot:
        here = api.get(wish.kind.content(earlier), {"file": name})
        if here.get("sha256") != wish.about["boot"][name]["sha256"]:
            raise Conflict(f"the upload of {wish.label} was begun with another {name}", hint=give_up)


def _send(api: Api, wish: Wish, thing: Json, source: upload.Source, params: Mapping[str, str] | None = None) -> Json:
    """Send the file. What comes to nothing for good is removed again; what can be gone on with stays."""
    content = wish.kind.content(thing)
    try:
        return upload.send(api, content, source, params) or {}
    except KeyboardInterrupt:
        _stopped(api, wish, content, source)
    except Unavailable as error:
        raise Unavailable(error.message, hint="the same command goes on where this ended, within a day") from error
    except Conflict as error:
        raise Conflict(error.message, hint="if that was you: within a minute the same command goes on") from error
    except PaddockError:
        _remove(api, wish, thing)
        raise


def _stopped(api: Api, wish: Wish, content: str, source: upload.Source) -> NoReturn:
    try:
        here = upload.received(api, content)
        much = f"{file_size(here)} of {file_size(source.size)}" if here is not None else "all"
    except PaddockError:
        much = "what came"
    say(
        f"stopped; {much} of {wish.label} is there and is kept for a day",
        f"the same command goes on; `{_command(wish, 'delete')}` gives it up",
    )
    raise typer.Exit(130) from None


def _await(api: Api, wish: Wish, thing: Json, action: Json) -> None:
    """Follow it until it is there. One that failed is removed, so that the next try has the name."""
    job = follow.Job(wish.label, action, thing, wish.kind.collection, follow.Until.MADE)
    try:
        follow.follow(api, [job], progress.view(f"Waiting until {job.label} is imported"), PATIENT)
    except KeyboardInterrupt:
        show, delete = _command(wish, "show"), _command(wish, "delete")
        say(f"stopped waiting; {job.label} goes on", f"`{show}` shows how far it is, `{delete}` gives it up")
        raise typer.Exit(130) from None
    if not job.problem:
        return
    if (job.thing or {}).get("x_state") == "failed":
        _remove(api, wish, thing)
    say(job.complaint, job.hint)
    raise typer.Exit(1)


def _tell(api: Api, wish: Wish, thing: Json) -> None:
    if wish.output is Format.JSON:
        show_json(api.get(f"/v1/{wish.kind.collection}/{thing['id']}")[wish.kind.key])
    elif wish.wait:
        stdout().print(f"{wish.label} is imported; {wish.kind.use.format(name=wish.about['name'])}")


def _remove(api: Api, wish: Wish, thing: Json) -> None:
    """Leave nothing of what failed; it may be gone already."""
    try:
        api.delete(f"{wish.kind.own}/{thing['id']}")
    except NotFound:
        return
    except PaddockError as error:
        say(f"{wish.label} is left over: {error.message}", _command(wish, "delete"))
