"""What `paddock launch` asks a person at a terminal, in CLD's order (C3 to C16), and that it asks nobody else."""

import time

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud
from tests.cli.terminal import Terminal, on_terminal


def answer(terminal: Terminal, question: str, typed: str) -> str:
    """Type this when that is asked. What was shown until then."""
    shown = terminal.until(question)
    terminal.type(f"{typed}\n")
    return shown


def test_it_asks_for_all_in_order_and_not_again(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("taken")
    cloud.types[4] = {**cloud.types[2], "id": 4, "name": "roomy", "memory": 8.0}
    cloud.types[5] = {**cloud.types[2], "id": 5, "name": "wide", "memory": 8.0, "disk": 160}
    with on_terminal(paddock, "launch", "--no-wait") as terminal:
        shown = answer(terminal, "Which [1]: ", "9")
        assert "Location" not in shown, "there is only one"
        assert "1) tiny  Linux and busybox\r\n  2) debian-12  Debian 12 (bookworm)\r\n" in shown
        assert "say a number from 1 to 2, or a name" in answer(terminal, "Which [1]: ", "2")
        answer(terminal, "Name (a-z 0-9 - .) [debian-12-", "Not_Valid")
        assert "a name has a-z, 0-9, - and . only" in answer(terminal, "Name (a-z", "taken")
        assert "there is already a server taken" in answer(terminal, "Name (a-z", "shop.example.com")
        answer(terminal, "CPU cores (1, 2, 4) [1]: ", "3")
        assert "there are: 1, 2, 4" in answer(terminal, "CPU cores (1, 2, 4) [1]: ", "2")
        answer(terminal, "RAM (2G, 8G) [2G]: ", "lots")
        assert "there are: 2G, 8G" in answer(terminal, "RAM (2G, 8G) [2G]: ", "8192M")
        shown = answer(terminal, "Disk (40G, 160G) [40G]: ", "")
        shown = terminal.until("is being created")
        assert terminal.wait() == 0
    assert "External IP and MAC: none to give" in shown
    assert "your answers:  paddock launch debian-12 --name shop.example.com --type roomy" in shown
    made = cloud.servers[2]
    assert (made["name"], made["image"]["name"], made["server_type"]["name"]) == (
        "shop.example.com", "debian-12", "roomy",
    )  # fmt: skip


def test_what_was_said_or_has_one_answer_is_not_asked(paddock: Shell, cloud: Cloud) -> None:
    with on_terminal(paddock, "launch", "--name", "web", "--cpus", "3", "--no-wait") as terminal:
        answer(terminal, "Which [1]: ", "tiny")
        shown = terminal.until("is being created")
        assert terminal.wait() == 0
    assert "RAM: 4G" in shown
    assert "Disk: 80G" in shown
    assert "Name" not in shown
    assert cloud.servers[1]["server_type"]["name"] == "medium"


def test_types_that_differ_in_nothing_else_are_a_menu_and_so_are_locations(paddock: Shell, cloud: Cloud) -> None:
    cloud.types[4] = {**cloud.types[1], "id": 4, "name": "dedicated"}
    cloud.locations[2] = {"id": 2, "name": "attic", "description": "Up there"}
    with on_terminal(paddock, "launch", "--count", "2", "--no-wait") as terminal:
        assert "2) attic  Up there" in answer(terminal, "Which [1]: ", "2")
        answer(terminal, "Which [1]: ", "")
        answer(terminal, "Name (a-z", "web")
        answer(terminal, "CPU cores (1, 2, 4) [1]: ", "")
        assert "2) dedicated  1 CPU, 512M memory, 10G disk" in answer(terminal, "Which [1]: ", "2")
        assert "--name web --location attic --type dedicated" in terminal.until("web-2 is being created")
        assert terminal.wait() == 0
    assert [s["server_type"]["name"] for s in cloud.servers.values()] == ["dedicated"] * 2
    bodies = [body for method, path, body in cloud.requests if (method, path) == ("POST", "/v1/servers")]
    assert [body["location"] for body in bodies] == ["attic"] * 2


def test_an_operator_is_asked_for_the_node_first(paddock: Shell, cloud: Cloud) -> None:
    """CLD asks for the hypervisor before anything else; where there is one only, there is nothing to ask."""
    cloud.nodes[1]["state"] = "up"
    cloud.locations[2] = {"id": 2, "name": "attic", "description": "Up there"}
    with on_terminal(paddock, "launch", "--type", "micro", "--name", "web", "--no-wait") as terminal:
        shown = answer(terminal, "Which [1]: ", "3")
        assert shown.startswith(
            "Node:\r\n  1) any  where there is room\r\n"
            "  2) n1  5 CPUs, 6.1G memory and 60G disk free\r\n  3) n2  12 CPUs, 15.6G memory and 500G disk free\r\n"
        )
        answer(terminal, "Which [1]: ", "tiny")
        assert "--name web --node n2 --type micro" in terminal.until("web is being created")
        assert terminal.wait() == 0
    with on_terminal(paddock, "launch", "--type", "micro", "--name", "any", "--no-wait") as terminal:
        answer(terminal, "Which [1]: ", "")
        answer(terminal, "Which [1]: ", "tiny")
        assert "--node" not in terminal.until("any is being created")
        assert terminal.wait() == 0
    asked = [body for method, path, body in cloud.requests if (method, path) == ("POST", "/v1/servers")]
    assert [body.get("x_node") for body in asked] == ["n2", None]


def test_who_is_no_operator_is_asked_for_the_location(paddock: Shell, cloud: Cloud) -> None:
    cloud.operator, cloud.nodes[1]["state"] = False, "up"
    cloud.locations[2] = {"id": 2, "name": "attic", "description": "Up there"}
    with on_terminal(paddock, "launch", "--type", "micro", "--name", "web", "--no-wait") as terminal:
        assert "Location:" in answer(terminal, "Which [1]: ", "2")
        answer(terminal, "Which [1]: ", "tiny")
        assert "--name web --location attic --type micro" in terminal.until("web is being created")
        assert terminal.wait() == 0


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_who_leaves_made_nothing(paddock: Shell, cloud: Cloud, key: str) -> None:
    with on_terminal(paddock, "launch") as terminal:
        terminal.until("Which [1]: ")
        time.sleep(0.3)  # Python's input() misses a Ctrl-C between its prompt and its read; nobody is that quick
        terminal.type(key)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.seen
    assert not cloud.servers
    assert not cloud.keys


def test_nothing_fits_is_said_and_not_asked(paddock: Shell, cloud: Cloud) -> None:
    with on_terminal(paddock, "launch", "--disk", "1T", "--name", "web") as terminal:
        answer(terminal, "Which [1]: ", "1")
        terminal.until("no server type has 1024 GB disk")
        assert terminal.wait() == 1


def test_nobody_else_is_asked(paddock: Shell, cloud: Cloud) -> None:
    """Stdin may hold answers all the same: it is not read."""
    said = paddock.fails("launch", "--name", "web", code=2, input="1\nweb\n")
    assert "Missing argument 'IMAGE': `paddock image list` shows what there is" in said
    assert not cloud.servers
    with on_terminal(paddock, "launch", "debian-12", "-n", "web", "--no-wait") as terminal:
        assert "Which" not in terminal.until("is being created"), "with an image, all else has a default"
        assert terminal.wait() == 0
