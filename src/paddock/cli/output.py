"""How data is shown: tables that fit the terminal, JSON, or only names. The layout is pure and has golden tests.

Whatever a guest or another tenant may have written is shown without its control characters.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from paddock.base import clock
from paddock.cli.client import Json

GAP = "  "
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL
)  # ECMA-48, xterm titles
STYLES = {
    "running": "green", "ready": "green", "success": "green", "up": "green", "done": "green", "yes": "green",
    "off": "dim", "absent": "dim", "error": "red", "failed": "red", "down": "red", "unknown": "red",
    "paused": "yellow", "hibernated": "dim",
}  # fmt: skip


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print it.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the names.")]


@dataclass(frozen=True)
class Column:
    """One column: `drop` > 0 lets it go when the terminal is narrow (1 first), `least` lets it shrink to that.

    Where that is not enough, the last ones go.
    """

    title: str
    value: Callable[[Json], object]
    drop: int = 0
    least: int = 0
    right: bool = False


def stdout() -> Console:
    """Where results go. As wide as it needs where no person looks."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def stderr() -> Console:
    """Where progress, notes and errors go."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def show_rows(rows: Sequence[Json], columns: Sequence[Column], format: Format, *, quiet: bool = False) -> None:
    """Print a list of things."""
    if quiet:
        for row in rows:
            print(clean(row.get("name") or row.get("id")))
    elif format is Format.JSON:
        show_json(list(rows))
    else:
        console = stdout()
        for line in table(rows, columns, width()):
            console.print(line)


def show_one(fields: Sequence[tuple[str, object]], thing: Json, format: Format) -> None:
    """Print one thing, a line per field that has a value."""
    if format is Format.JSON:
        show_json(thing)
        return
    shown = [(name, clean(value)) for name, value in fields if value not in (None, "", [], {})]
    indent = max((len(name) for name, _ in shown), default=0) + 3
    for name, value in shown:
        stdout().print(Text(f"{name}:".ljust(indent)) + Text(value, STYLES.get(value, "")))


def show_json(value: object) -> None:
    """Print what the API said, as it said it."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def width() -> int | None:
    """Columns to fill: COLUMNS, else the terminal's, else None: as many as it takes."""
    if (chosen := os.environ.get("COLUMNS", "")).isdigit():
        return int(chosen) or None
    return os.get_terminal_size(1).columns if sys.stdout.isatty() else None


def table(rows: Sequence[Json], columns: Sequence[Column], width: int | None) -> list[Text]:
    """The lines of a table: dropped, then shortened to `width` columns."""
    cells = {c: [clean(c.value(row)) for row in rows] for c in columns}
    natural = {c: max([len(c.title), *map(cell_len, cells[c])]) for c in columns}
    widths = _fit(columns, natural, width)
    heading = _line([(c.title, w, c.right, "bold") for c, w in widths.items()])
    body = [
        _line([(cells[c][i], w, c.right, STYLES.get(cells[c][i], "")) for c, w in widths.items()])
        for i in range(len(rows))
    ]
    return [heading, *body]


def _fit(columns: Sequence[Column], natural: dict[Column, int], width: int | None) -> dict[Column, int]:
    kept = list(columns)
    if width is None:
        return {c: natural[c] for c in kept}
    droppable = sorted((c for c in columns if c.drop), key=lambda c: c.drop)
    while droppable and _total([_least(c, natural[c]) for c in kept]) > width:
        kept.remove(droppable.pop(0))
    widths = {c: natural[c] for c in kept}
    while _total(list(widths.values())) > width:
        shrinkable = [c for c in kept if widths[c] > _least(c, natural[c])]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda c: widths[c])] -= 1
    while _total(list(widths.values())) > width and len(widths) > 1:
        widths.popitem()  # rather than lines that are broken in two
    return widths


def _least(column: Column, natural: int) -> int:
    return min(natural, max(column.least, len(column.title))) if column.least else natural


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(cells: Sequence[tuple[str, int, bool, str]]) -> Text:
    line = Text(no_wrap=True)
    for n, (value, size, right, style) in enumerate(cells):
        shown = shorten(value, size)
        pad = " " * (size - cell_len(shown))
        line.append(GAP if n else "")
        line.append(pad if right else "")
        line.append(shown, style)
        line.append("" if right else pad)
    line.rstrip()
    return line


def shorten(text: str, size: int) -> str:
    """At most `size` columns of it, with an ellipsis where something is missing."""
    return text if cell_len(text) <= size else set_cell_size(text, max(size - 1, 0)).rstrip() + "…"


def clean(value: object) -> str:
    """A value as a person reads it, without control characters: a guest may have chosen it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = ", ".join(f"{k}={v}" if v != "" else str(k) for k, v in value.items())
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "".join(c if c.isprintable() else " " for c in str(value))


def printable(text: str) -> str:
    """A guest's output as it may go to our terminal: lines and tabs stay, escape sequences and the rest go."""
    return "".join(c for c in ESCAPES.sub("", text) if c.isprintable() or c in "\n\t")


def age(created: Any) -> str:
    """How long ago an RFC 3339 time was: 5s, 3m, 2h, 4d."""
    try:
        seconds = int((clock.now() - datetime.fromisoformat(str(created))).total_seconds())
    except (ValueError, TypeError):
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def gigabytes(value: Any) -> str:
    """Memory or disk given in GB: 512M, 2G, 1.5G."""
    amount = float(value or 0)
    return f"{round(amount * 1024)}M" if 0 < amount < 1 else f"{amount:g}G"


def file_size(count: int) -> str:
    """Bytes for people: 512 B, 20.0 MB, 1.5 GB."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("KB", "MB"):
        amount /= 1000
        if amount < 1000:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1000:.1f} GB"


def duration(seconds: Any) -> str:
    """Seconds for people: 80 ms, 1.2 s, 14 s, 2 min 5 s."""
    amount = float(seconds or 0)
    if amount < 1:
        return f"{amount * 1000:.0f} ms"
    if amount < 10:
        return f"{amount:.1f} s"
    return f"{amount:.0f} s" if amount < 120 else f"{int(amount) // 60} min {int(amount) % 60} s"
