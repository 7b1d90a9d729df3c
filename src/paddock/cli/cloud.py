"""`paddock up`, `down`, `status` and `doctor`: the cloud of this machine as a whole."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from paddock.base.errors import PaddockError
from paddock.base.statedir import STATE_ENV, StateDir, default_state_dir
from paddock.cli.output import Column, Format, Output, age, clean, duration, show_json, show_rows, stderr, stdout
from paddock.service import control, doctor, pgupgrade, state
from paddock.service.control import Follower
from paddock.service.supervisor import Event

PANEL = "This machine"
database_app = typer.Typer(no_args_is_help=True, help="The control plane's database: backup and restore.")
NOT_RUNNING = 3  # exit code of `status`, as of a stopped service
INDENT = 12

Where = Annotated[
    Path | None, typer.Option("--state-dir", envvar=STATE_ENV, help="Where the cloud of this machine is.")
]


class Failed(PaddockError):
    """The cloud did not start."""


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    for name, function in (("up", up), ("down", down), ("status", status), ("doctor", doctor_command)):
        app.command(name, rich_help_panel=PANEL)(function)
    app.add_typer(database_app, name="database", rich_help_panel=PANEL)


def up(
    state_dir: Where = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is ready; `down` stops it.")] = False,
) -> None:
    """Start the cloud of this machine: PostgreSQL, node agents, worker, API.

    Without --detach it stays in the foreground until Ctrl-C. Servers go on running when it stops, and are there again
    when it starts. What it does is chosen in paddock.toml of the state directory; without one there is a node n1.

    Examples:
      paddock up --detach
      paddock --state-dir /srv/paddock up
    """
    directory = _directory(state_dir)
    follower = Follower(directory, stay=not detach)
    with _signals(follower):
        failure = _follow(follower, directory, detach)
    follower.close()
    if failure:
        said, _, log = failure.text.partition("\n")
        for line in log.splitlines():
            stderr().print(Text(f"  {clean(line)}", "dim"))
        raise Failed(said.removesuffix("; it said:"), hint=failure.hint)


def down(state_dir: Where = None) -> None:
    """Stop the cloud of this machine. Its servers go on running.

    Examples:
      paddock down
    """
    directory = _directory(state_dir)
    stopped = control.down(directory, lambda text: stderr().print(clean(text)))
    stderr().print("Paddock is stopped" if stopped else f"Paddock was not running in {directory.root}")
    if guests := len(control.guests(directory)):
        stderr().print(f"{_count(guests, 'server')} still running; `paddock up` takes care of them again")


def status(state_dir: Where = None, output: Output = Format.TABLE) -> None:
    """Show what runs on this machine. Exit code 0: all is well, 1: something is not, 3: it is not running.

    Examples:
      paddock status
      paddock status -o json
    """
    found = control.status(_directory(state_dir))
    if output is Format.JSON:
        show_json(found)
    else:
        _print_status(found)
    if found["state"] != "up":
        raise typer.Exit(NOT_RUNNING if found["state"] == "stopped" else 1)


def doctor_command(state_dir: Where = None, output: Output = Format.TABLE) -> None:
    """Check what this machine must have, and say what to do about what is missing. Exit code 1: something is.

    Examples:
      paddock doctor
      paddock doctor -o json
    """
    checks = doctor.examine(_directory(state_dir))
    if output is Format.JSON:
        show_json([c.as_json() for c in checks])
    else:
        _print_checks(checks)
    if any(c.result == "fail" for c in checks):
        raise typer.Exit(1)


@database_app.command("backup")
def backup_database(
    file: Annotated[Path, typer.Argument(help="A file that is not there yet.")], state_dir: Where = None
) -> None:
    """Write a dump of the embedded database to a file (0600), while everything runs.

    Keep it together with `secret-key`, `token` and `paddock.toml` of the state directory.

    Examples:
      paddock database backup /backup/paddock-monday.dump
    """
    try:
        pgupgrade.backup(_directory(state_dir), file.absolute())
    except FileExistsError:
        raise Failed(f"{file} is already there", hint="choose another name") from None
    except OSError as e:
        raise Failed(f"{file} can't be written: {e.strerror}") from e
    stderr().print(f"{file} holds the database as of now ({file.stat().st_size >> 10} KiB)")


@database_app.command("restore")
def restore_database(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")], state_dir: Where = None
) -> None:
    """Put a dump in the place of the embedded database. The cloud must be down; servers go on running.

    What is replaced is kept beside it until the next restore.

    Examples:
      paddock down && paddock database restore /backup/paddock-monday.dump && paddock up --detach
    """
    directory = _directory(state_dir)
    state.make(directory)
    held = state.lock(directory)
    try:
        replaced = pgupgrade.restore(directory, file.absolute(), lambda text: stderr().print(clean(text)))
    finally:
        held.release()
    stderr().print(f"restored; the data it replaced is in {replaced}")


def _directory(chosen: Path | None) -> StateDir:
    return StateDir(chosen.absolute() if chosen else default_state_dir())


@contextmanager
def _signals(follower: Follower) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the supervisor in order; we follow it to its end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        follower.stop()

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(follower: Follower, directory: StateDir, detach: bool) -> Event | None:
    """Show what happens until it is up (detached) or has ended; the failure, if there was one."""
    failure = None
    shown = _Progress()
    with shown:
        for event in follower.events():
            shown.add(event)
            if event.what == "failed":
                failure = event
            elif event.what == "up":
                shown.end()
                _print_up(directory, detach)
    return failure


class _Progress:
    """A line per process: on a terminal they change in place, elsewhere there is one for each thing that happened."""

    def __init__(self) -> None:
        console = stderr()
        self._console = console
        self._rows: dict[str, tuple[Spinner | Text, str]] = {}
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> "_Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """From now on a line for each event."""
        if self._live:
            self._live.stop()
        self._live = None

    def add(self, event: Event) -> None:
        """Show it."""
        if not event.name:
            return
        text = clean(event.text) if event.text else event.what
        if event.what == "ready":
            text = f"ready after {duration(event.seconds)}"
        if self._live is None:
            if event.text or event.what in ("ready", "stopped"):
                self._console.print(f"{event.name.ljust(INDENT)}{text}")
            return
        sign: Spinner | Text = Text("✓", "green") if event.what == "ready" else Spinner("dots", style="cyan")
        if event.what == "starting" and not event.text and event.name in self._rows:
            text = self._rows[event.name][1]  # PostgreSQL has told what it starts as
        self._rows[event.name] = (sign, text)
        self._live.update(self._table())

    def _table(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        for name, (sign, text) in self._rows.items():
            grid.add_row(sign, name.ljust(INDENT), Text(text, overflow="ellipsis", no_wrap=True))
        return grid


def _print_up(directory: StateDir, detach: bool) -> None:
    url = directory.api_url.read_text(encoding="ascii").strip()
    lines = (
        ("API", url),
        ("state", str(directory.root)),
        ("next", "paddock launch debian-12"),
        ("stop", "paddock down" if detach else "Ctrl-C"),
    )
    console = stdout()
    console.print(Text("Paddock is up", "bold green"))
    for name, value in lines:
        console.print(Text(f"  {name.ljust(8)}", "dim") + Text(value))


COLUMNS = (
    Column("PROCESS", lambda p: p["name"]),
    Column("STATE", lambda p: p["state"]),
    Column("PID", lambda p: p["pid"], right=True),
    Column("UP", lambda p: age(p["since"]) if p["since"] else "-", right=True),
    Column("MEMORY", lambda p: f"{p['memory_kib'] / 1024:.0f}M" if p["memory_kib"] else "-", right=True),
    Column("RESTARTS", lambda p: p["restarts"], drop=1, right=True),
    Column("WHY", lambda p: p["why"], drop=2, least=12),
)


def _print_status(found: dict[str, Any]) -> None:
    console = stdout()
    owner = found["supervisor"]
    styles = {"up": "green", "degraded": "yellow", "stopped": "dim"}
    console.print(Text("Paddock is ") + Text(found["state"], f"bold {styles[found['state']]}"))
    fields = (
        ("state", found["state_dir"]),
        ("API", found["api"]),
        ("database", found["database"]),
        ("nodes", ", ".join(found["nodes"])),
        ("servers", f"{found['guests']} running"),
    )
    for name, value in fields:
        if value:
            console.print(Text(f"  {name.ljust(10)}", "dim") + Text(clean(value)))
    rows = found["processes"]
    if owner:
        rows = [{**_NO_PROCESS, "name": "supervisor", "state": "ready", **owner}, *rows]
    rows = [r for r in rows if r["pid"] or r["state"] not in ("done", "stopped")]
    if rows:
        console.print()
        show_rows(rows, COLUMNS, Format.TABLE)


_NO_PROCESS: dict[str, Any] = {"since": None, "restarts": 0, "why": ""}


def _print_checks(checks: list[doctor.Check]) -> None:
    signs = {"ok": Text("✓", "green"), "warn": Text("!", "bold yellow"), "fail": Text("✗", "bold red")}
    console = stdout()
    broad = max(len(c.name) for c in checks) + 2
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(min_width=broad)
    grid.add_column(overflow="fold")
    for check in checks:
        grid.add_row(signs[check.result], check.name, Text(clean(check.found)))
        if check.result != "ok" and check.hint:
            grid.add_row("", "", Text(f"→ {clean(check.hint)}", "cyan"))
    console.print(grid, soft_wrap=False)
    bad = sum(c.result == "fail" for c in checks)
    warned = sum(c.result == "warn" for c in checks)
    console.print(f"\n{_count(bad, 'problem')}, {_count(warned, 'warning')}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
