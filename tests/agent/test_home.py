"""The agent's directory and socket: ours or nobody's."""

import json
import os
import socket
from pathlib import Path

import pytest

from paddock.agent.home import MARKER, Home
from paddock.agent.listen import listen
from paddock.base.errors import Conflict, Refused


def test_directory_is_made_and_marked(tmp_path: Path) -> None:
    root = tmp_path / "a" / "node"
    Home(root, "n1", "fake").close()
    assert root.stat().st_mode & 0o777 == 0o700
    marker = json.loads((root / MARKER).read_text())
    assert (marker["version"], marker["name"], marker["driver"]) == (1, "n1", "fake")
    Home(root, "n1", "fake").close()


def test_directory_of_two_agents(tmp_path: Path) -> None:
    home = Home(tmp_path / "node", "n1", "fake")
    with pytest.raises(Conflict, match="in use"):
        Home(tmp_path / "node", "n1", "fake")
    home.close()


@pytest.mark.parametrize(("name", "driver"), [("n2", "fake"), ("n1", "qemu")])
def test_directory_of_another_node(tmp_path: Path, name: str, driver: str) -> None:
    Home(tmp_path, "n1", "fake").close()
    with pytest.raises(Refused, match="belongs to"):
        Home(tmp_path, name, driver)


def test_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(Refused, match=r"thesis\.txt"):
        Home(tmp_path, "n1", "fake")
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.txt"}


def test_directory_of_a_newer_version(tmp_path: Path) -> None:
    marker = {"version": 2, "name": "n1", "driver": "fake", "paddock": "9.1"}
    (tmp_path / MARKER).write_text(json.dumps(marker))
    with pytest.raises(Refused, match=r"newer paddock \(9\.1\)"):
        Home(tmp_path, "n1", "fake")


@pytest.mark.parametrize("text", ["", "{}", "[1", "\0"])
def test_directory_with_a_broken_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(Refused, match="marker"):
        Home(tmp_path, "n1", "fake")


def test_start_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    Home(tmp_path, "n1", "fake").close()


def test_directory_that_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Refused, match="others"):
        Home(tmp_path, "n1", "fake")


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="can't be made"):
        Home(tmp_path / "file", "n1", "fake")


def test_socket_is_for_us_alone(tmp_path: Path) -> None:
    with listen(tmp_path / "run" / "a.sock"):
        assert (tmp_path / "run" / "a.sock").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_socket_of_a_dead_agent(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listen(path).close()
    assert path.exists()
    listen(path).close()


def test_socket_of_a_living_agent(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with listen(path), pytest.raises(Conflict, match="listens"):
        listen(path)
    assert path.exists()


def test_file_in_the_sockets_place(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("mine")
    with pytest.raises(Refused, match="no socket"):
        listen(path)
    assert path.read_text() == "mine"


def test_socket_path_of_108_bytes(tmp_path: Path) -> None:
    stem = tmp_path / "x"
    fits = stem.with_name("x" * (107 - len(os.fsencode(stem)) + 1))
    made: socket.socket = listen(fits)
    made.close()
    with pytest.raises(Refused, match="107") as caught:
        listen(Path(f"{fits}x"))
    assert "--socket" in caught.value.hint
