"""`paddock server metrics`: what a server used, a line per series with its course drawn in eighths."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer

from paddock.base import clock
from paddock.base.errors import Invalid
from paddock.cli import lookup
from paddock.cli.client import Json
from paddock.cli.output import Column, Format, Output, show_json, show_rows, stderr
from paddock.cli.server import Server
from paddock.cli.session import api_of

EIGHTHS = "▁▂▃▄▅▆▇█"
WIDTH = 18  # characters of a course: a table has 80 columns then
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

COLUMNS = (
    Column("SERIES", lambda s: s["name"]),
    Column("LAST", lambda s: s["last"], right=True),
    Column("MEAN", lambda s: s["mean"], drop=2, right=True),
    Column("MOST", lambda s: s["most"], drop=3, right=True),
    Column("COURSE", lambda s: s["course"], drop=1),
)


def metrics(
    ctx: typer.Context,
    server: Server,
    last: Annotated[str, typer.Option(help="How far back: 30m, 6h, 7d.")] = "1h",
    output: Output = Format.TABLE,
) -> None:
    """Show what a server used of CPU, disk and network.

    CPU is in per cent of one CPU; the rest is per second.

    Examples:
      paddock server metrics web
      paddock server metrics web --last 7d -o json
    """
    api = api_of(ctx)
    end = clock.now()
    start = end - timedelta(seconds=_seconds(last))
    asked = {"type": "cpu,disk,network", "start": start.isoformat(), "end": end.isoformat()}
    thing = lookup.server(api, server)
    found = api.get(f"/v1/servers/{thing['id']}/metrics", asked)["metrics"]
    if output is Format.JSON:
        show_json(found)
    elif not any(series["values"] for series in found["time_series"].values()):
        stderr().print(f"nothing was measured of {thing['name']} in the last {last}: it is measured while it runs")
    else:
        show_rows([_row(n, s["values"]) for n, s in sorted(found["time_series"].items())], COLUMNS, output)


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if match is None:
        raise Invalid(f"{text!r} is no length of time", hint="such as 30m, 6h or 7d", field="last")
    return int(match[1]) * UNITS[match[2]]


def _row(name: str, values: Sequence[Sequence[float | str]]) -> Json:
    numbers = [float(value) for _, value in values]
    if not numbers:
        return {"name": name, "last": None, "mean": None, "most": None, "course": ""}
    show = _bytes if "bandwidth" in name else _plain
    mean = sum(numbers) / len(numbers)
    return {
        "name": name, "last": show(numbers[-1]), "mean": show(mean), "most": show(max(numbers)),
        "course": course(numbers),
    }  # fmt: skip


def course(numbers: Sequence[float]) -> str:
    """The numbers as a line of blocks, each the mean of its share, the highest a full block."""
    count = min(WIDTH, len(numbers))
    shares = [numbers[i * len(numbers) // count : (i + 1) * len(numbers) // count] for i in range(count)]
    means = [sum(share) / len(share) for share in shares]
    most = max(means) or 1.0
    return "".join(EIGHTHS[min(7, int(mean / most * 8))] for mean in means)


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.1f} {unit}/s"
        value /= 1000
    return f"{value:.1f} GB/s"
