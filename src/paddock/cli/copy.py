"""`paddock cp`: files and directories into a server and out of it through its guest agent, without SSH or network.

What arrives lies beside its place until it is whole. A guest may be hostile: what its tar may do here is in
`paddock.base.unpack`, and nothing of it is larger than --max-size.
"""

import contextlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, TypeVar

import typer

from paddock.base.errors import Conflict, Invalid, NotFound
from paddock.base.unpack import unpack
from paddock.cli import lookup
from paddock.cli.client import Api
from paddock.cli.fail import say
from paddock.cli.output import clean, file_size
from paddock.cli.server import PANEL
from paddock.cli.session import api_of
from paddock.cli.upload import Bar

T = TypeVar("T")

CHUNK = 256 * 1024
REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*(?:/[0-9]+)?):(.*)", re.DOTALL)
SHOWN = 5  # of what was left out
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Place:
    """A path here, or in a server."""

    path: str
    server: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cp", rich_help_panel=PANEL)(copy)


def copy(
    ctx: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="FROM... TO", help="NAME:/PATH is in a server.", show_default=False)
    ],
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Copy directories too.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="A directory takes the place of one of its name.")] = False,
    max_size: Annotated[str, typer.Option(metavar="SIZE", help="Refuse what is larger, as 500M or 20G.")] = "16G",
) -> None:
    """Copy files into a server, or out of it, through its guest agent: no SSH, key or network is needed.

    Modes are kept; in the server everything belongs to root. A file replaces one that is there,
    in one step, when all of it has arrived. A directory that is there already is replaced only
    with --replace. Of a directory from a server, links that lead out of it are left out.

    Examples:
      paddock cp web-1:/etc/hosts .
      paddock cp app.conf web-1:/etc/app/
      paddock cp -r site web-1:/srv/
      paddock cp -r web-1:/var/log logs
    """
    if len(paths) < 2:
        raise Invalid("say what to copy, and where to", hint="paddock cp web-1:/etc/hosts .", field="paths")
    *sources, target = (_place(p) for p in paths)
    if {bool(s.server) for s in sources} != {not target.server}:
        raise Invalid("copy from here to a server (NAME:/PATH), or from servers to here", field="paths")
    api, most = api_of(ctx), _size(max_size)
    if len(sources) > 1 and not target.server and not Path(target.path).is_dir():
        raise Invalid(f"{target.path} is no directory, which several files need", field="paths")
    for source in sources:
        if target.server:
            _send(api, source, target, recursive, replace, most)
        else:
            _fetch(api, source, Path(target.path), recursive, replace, most)


def _place(text: str) -> Place:
    found = REMOTE.fullmatch(text)
    if found is None:
        return Place(text)
    if not found[2].startswith("/"):
        raise Invalid(f"{text!r} must name a whole path in the server", hint=f"{found[1]}:/root/...", field="paths")
    return Place(found[2], found[1])


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise Invalid(f"{text!r} is not a size", hint="500M, 20G", field="max-size")
    return int(found[1]) * _UNITS[found[2].upper()]


def _files(api: Api, place: Place) -> str:
    return f"/x/v1/servers/{lookup.server(api, place.server)['id']}/files"


def _send(api: Api, source: Place, target: Place, recursive: bool, replace: bool, most: int) -> None:
    path = Path(source.path)
    name = path.name or path.resolve().name
    params = {"path": target.path, "name": name}
    with contextlib.ExitStack() as stack:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if not recursive:
                    raise Invalid(f"{path} is a directory", hint="-r copies directories", field="paths")
                file = stack.enter_context(_packed(path))
                params |= {"tar": "1", "replace": "1" if replace else ""}
            elif stat.S_ISREG(status.st_mode):
                file = stack.enter_context(path.open("rb"))
                params |= {"mode": f"{status.st_mode & 0o7777:04o}"}
            else:
                raise Invalid(f"{path} is neither a file nor a directory", field="paths")
        except OSError as e:
            raise Invalid(f"{path} can't be read: {e.strerror}", field="paths") from e
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Invalid(f"{path} has {file_size(size)}", hint="--max-size allows more", field="paths")
        files = _files(api, target)
        with Bar(f"{name} to {target.server}", size) as bar:
            answer = api.send_file(files, _chunks(file, size, bar), size, params)
    if answer.get("size") != size:
        raise Conflict(f"{target.server} has {answer.get('size')} of {size} bytes of {name}")


@contextlib.contextmanager
def _packed(path: Path) -> Iterator[BinaryIO]:
    """A tar of a directory, in a file without a name. All in it belongs to root."""

    def ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(path, ".", filter=ours)
        file.seek(0)
        yield file


def _chunks(file: BinaryIO, size: int, bar: Bar) -> Iterator[bytes]:
    left = size
    while left and (data := file.read(min(CHUNK, left))):
        left -= len(data)
        yield data
        bar.advance(len(data))
    if left:
        raise Invalid("the file became shorter while it was read", field="paths")


def _fetch(api: Api, source: Place, target: Path, recursive: bool, replace: bool, most: int) -> None:
    name = PurePosixPath(source.path).name or source.server
    if target.is_dir():
        target = target / name
    if not target.parent.is_dir():
        raise NotFound(f"there is no directory {target.parent}", hint="make it first")
    with api.fetch_file(_files(api, source), {"path": source.path, "tar": "1" if recursive else ""}) as answer:
        size = answer.size
        if size > most:
            raise Invalid(
                f"{source.path} of {source.server} has {file_size(size)}", hint="--max-size allows more", field="paths"
            )
        with Bar(f"{name} from {source.server}", size) as bar:
            if answer.kind == "directory":
                _fetch_directory(answer.chunks, target, replace, most, bar)
            else:
                _fetch_file(answer.chunks, target, answer.mode, most, bar)


def _fetch_file(chunks: Iterator[bytes], target: Path, mode: int, most: int, bar: Bar) -> None:
    if target.is_dir():
        raise Conflict(f"{target} is a directory", hint="name another place")
    fd, ours = _reported(target, lambda: tempfile.mkstemp(prefix=".paddock-", dir=target.parent))
    try:
        with os.fdopen(fd, "wb") as file:
            _drain(chunks, file, most, bar)
            os.fchmod(fd, mode & 0o777)
        _reported(target, lambda: os.replace(ours, target))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(ours)
        raise


def _fetch_directory(chunks: Iterator[bytes], target: Path, replace: bool, most: int, bar: Bar) -> None:
    if os.path.lexists(target) and not replace:
        raise Conflict(f"{target} is there already", hint="--replace puts the new one in its place")
    ours = Path(_reported(target, lambda: tempfile.mkdtemp(prefix=".paddock-", dir=target.parent)))
    try:
        with tempfile.TemporaryFile(dir=ours) as tar:
            _drain(chunks, tar, most, bar)
            tar.seek(0)
            (ours / "new").mkdir(mode=0o755)
            done = unpack(tar, ours / "new", most)
        _reported(target, lambda: _swap(target, ours))
    finally:
        shutil.rmtree(ours, ignore_errors=True)
    for line in done.left_out[:SHOWN]:
        say(f"left out: {clean(line)}")
    if len(done.left_out) > SHOWN:
        say(f"left out: {len(done.left_out) - SHOWN} more")


def _swap(target: Path, ours: Path) -> None:
    """Put `new` in the target's place, and what is there into `old`. Raises OSError, and then all is as before."""
    if not os.path.lexists(target):
        os.rename(ours / "new", target)
        return
    os.rename(target, ours / "old")
    try:
        os.rename(ours / "new", target)
    except OSError:
        os.rename(ours / "old", target)
        raise


def _drain(chunks: Iterator[bytes], file: BinaryIO, most: int, bar: Bar) -> None:
    """Write it all. The guest said how much it is, which may be wrong."""
    written = 0
    for chunk in chunks:
        written += len(chunk)
        if written > most:
            raise Invalid(f"more than {file_size(most)} came", hint="--max-size allows more", field="paths")
        file.write(chunk)
        bar.advance(len(chunk))
    file.flush()


def _reported(target: Path, work: Callable[[], T]) -> T:
    """Do what the file system may refuse. Raises Invalid."""
    try:
        return work()
    except OSError as e:
        raise Invalid(f"{target} can't be written: {e.strerror}", field="paths") from e
