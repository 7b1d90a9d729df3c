"""The table of figures: on the screen, as Markdown, as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figure import Figure

RESULTS = Path(__file__).parent / "results"
HEADS = ("figure", "value", "raw QEMU", "ratio", "limit", "met", "notes")


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table(*HEADS)
    for figure in figures:
        table.add_row(*_cells(figure), style="red" if figure.met is False else None)
    Console(width=180).print(table)


def save(figures: Sequence[Figure], facts: dict[str, str], command: str, profile: str) -> None:
    """Leave the table in `bench/results/`."""
    RESULTS.mkdir(exist_ok=True)
    data = {
        "command": command,
        "host": facts,
        "figures": [dataclasses.asdict(f) | {"ratio": f.ratio, "met": f.met} for f in figures],
    }
    name = facts["when"].replace(":", "")
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / "latest.md").write_text(_markdown(figures, facts, command, profile))


def _markdown(figures: Sequence[Figure], facts: dict[str, str], command: str, profile: str) -> str:
    rows = ["| " + " | ".join(_cells(f)) + " |" for f in figures]
    head = ["| " + " | ".join(HEADS) + " |", "| --- | ---: | ---: | ---: | ---: | --- | --- |"]
    host = [f"- {name}: {value}" for name, value in facts.items()]
    parts = ["# How fast", "", f"`{command}`", "", *host, "", *head, *rows, ""]
    if profile:
        parts += ["## Where the CPU time of creates on the fake goes", "", profile]
    return "\n".join(parts)


def _cells(figure: Figure) -> list[str]:
    limit = "" if figure.limit is None else f"{figure.limit:g}" + ("×" if figure.raw else "")
    if figure.aim is not None:
        limit += f" (aim {figure.aim:g}{'×' if figure.raw else ''})"
    return [
        figure.name,
        f"{figure.value:.3g} {figure.unit}".strip(),
        "" if figure.raw is None else f"{figure.raw:.3g} {figure.unit}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}×",
        limit.strip(),
        {None: "", True: "yes", False: "NO"}[figure.met],
        figure.note,
    ]
