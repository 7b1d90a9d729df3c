"""Tables at the widths of real terminals, JSON and names, compared with golden files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from paddock.cli import output, server
from paddock.cli.output import Column, clean, duration, gigabytes, printable, shorten, table
from tests.cli.conftest import Shell
from tests.cli.server import Cloud

LISTS = ("ls", "image list", "type list", "node list", "cluster", "server timeline web", "server steps web")
GOLDEN = Path(__file__).parents[1] / "golden" / "cli"


def golden(name: str, text: str) -> None:
    """Compare with a golden file; `PADDOCK_GOLDEN=write` writes it."""
    path = GOLDEN / name
    if os.environ.get("PADDOCK_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def fill(cloud: Cloud) -> None:
    """A few servers of all kinds."""
    waiting: dict[str, Any] = {
        "ready": False,
        "by": [],
        "waiting_for": "cloud-init in the guest",
        "after_seconds": None,
    }
    cloud.add("web", x_group="pf1", x_role="web", labels={"env": "prod"})
    cloud.add("database-with-a-long-name.example.com", server_type=cloud.types[3], image=cloud.images[2])
    cloud.add("new", x_ready=waiting, image=cloud.images[2], x_name=None, x_node=None)
    cloud.add("old", status="off", x_ready=waiting)
    cloud.add("bad", status="off", x_ready=waiting, x_problem="the guest did not boot\x1b[2J")


@pytest.mark.parametrize("columns", [80, 120, None])
def test_lists(paddock: Shell, cloud: Cloud, columns: int | None) -> None:
    fill(cloud)
    shown = "".join(
        f"$ paddock {words}\n{done.stdout}\n"
        for words in (
            "ls",
            "image list",
            "type list",
            "node list",
            "cluster",
            "server timeline web",
            "server steps web",
        )
        for done in [paddock.run(*words.split(), columns=columns)]
    )
    if columns:
        assert max(map(len, shown.splitlines())) <= columns
    golden(f"lists-{columns or 'pipe'}.txt", shown)


def test_show(paddock: Shell, cloud: Cloud) -> None:
    fill(cloud)
    created = f"{cloud.born.isoformat()}"
    shown = "".join(
        f"$ paddock {words}\n{paddock.ok(*words.split()).replace(created, 'CREATED')}\n"
        for words in ("server show web", "server show bad", "node show n1", "image show debian-12")
    )
    golden("show.txt", shown)


def test_json_is_what_the_api_said(paddock: Shell, cloud: Cloud) -> None:
    fill(cloud)
    listed = json.loads(paddock.ok("ls", "-o", "json"))
    assert [s["name"] for s in listed] == [s["name"] for s in cloud.servers.values()]
    assert json.loads(paddock.ok("server", "show", "web", "-o", "json")) == {**cloud.servers[1], "x_status": "running"}
    for words in ("image list", "type list", "node list", "node show n1", "cluster", "version", "server steps web"):
        json.loads(paddock.ok(*words.split(), "-o", "json"))


def test_names_only_and_filters(paddock: Shell, cloud: Cloud) -> None:
    fill(cloud)
    assert paddock.ok("ls", "-q", "--status", "off").split() == ["old", "bad"]
    assert paddock.ok("ls", "-q", "--group", "pf1").split() == ["web"]
    assert paddock.ok("ls", "-q", "-l", "env=prod").split() == ["web"]
    assert paddock.ok("ls", "-q", "--group", "none") == ""


def test_many_pages(paddock: Shell, cloud: Cloud) -> None:
    for n in range(120):
        cloud.add(f"s{n}")
    assert len(paddock.ok("ls", "-q").split()) == 120


def test_no_colours_without_a_terminal(paddock: Shell, cloud: Cloud) -> None:
    fill(cloud)
    assert "\x1b" not in paddock.ok("ls")
    assert "\x1b" not in paddock.ok("server", "show", "bad")


def test_what_a_guest_says_can_not_drive_the_terminal(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert paddock.ok("server", "log", "web") == "booting\nok done\n"
    assert "\x1b[0;32m" in paddock.ok("server", "log", "web", "--raw")
    assert clean("a\x1b[2Jb\n") == "a [2Jb "
    assert printable("\x1b]0;title\x1b\\x\x9b1my\ttab\n") == "x1my\ttab\n"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal_unless_nothing_can_go(width: int) -> None:
    rows = [{"a": "x" * n, "b": "y" * 30, "c": "z"} for n in range(50)]
    columns = [
        Column("A", lambda r: r["a"], least=5), Column("B", lambda r: r["b"], drop=1), Column("C", lambda r: r["c"]),
    ]  # fmt: skip
    lines = [line.plain for line in table(rows, columns, width)]
    assert max(map(len, lines)) <= width
    assert all(line.rstrip().endswith("z") for line in lines[1:])


def test_where_nothing_may_go_the_last_ones_do() -> None:
    columns = [Column("NAME", lambda r: r["n"]), Column("SIZE", lambda _: "10 GB"), Column("WHERE", lambda _: "there")]
    shown = [[line.plain for line in table([{"n": "data"}], columns, width)] for width in (18, 17, 9, 3)]
    assert [len(lines[0].split()) for lines in shown] == [3, 2, 1, 1]
    assert shown[1] == ["NAME  SIZE", "data  10 GB"]


def test_wide_characters_count_double() -> None:
    assert shorten("日本語", 4) == "日…"
    assert shorten("abc", 3) == "abc"
    columns = [Column("N", lambda r: r["n"]), Column("X", lambda _: 1)]
    assert [line.plain for line in table([{"n": "日本"}], columns, None)] == ["N     X", "日本  1"]


def test_units() -> None:
    assert [duration(s) for s in (0.0801, 1.24, 14.2, 125)] == ["80 ms", "1.2 s", "14 s", "2 min 5 s"]
    assert [gigabytes(g) for g in (0.125, 0.5, 1.0, 1.5, 40)] == ["128M", "512M", "1G", "1.5G", "40G"]
    assert output.age("not a time") == "-"


def test_ssh_is_shown_only_while_it_runs(cloud: Cloud) -> None:
    assert server.ssh(cloud.add("a")) == "127.0.0.1:2200"
    assert server.ssh(cloud.add("b", status="off")) == "-"
