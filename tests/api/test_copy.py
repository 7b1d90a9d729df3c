"""`paddock cp` on the real API and a guest of the fake: both ways, files and directories, whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.api.guest_files import CHUNK
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.cli.conftest import Shell
from tests.cloud.harness import Cloud


@pytest.fixture
def paddock(live: LiveApi, cloud: Cloud, tmp_path: Path) -> Shell:
    (tmp_path / "shell").mkdir()
    return Shell(tmp_path / "shell", f"http://127.0.0.1:{live.port}", Caller().token)


@pytest.fixture
def web(cloud: Cloud) -> str:
    return cloud.running_server().name


@pytest.fixture
def host(cloud: Cloud) -> Iterator[RemoteHypervisor]:
    host = cloud.host()
    assert isinstance(host, RemoteHypervisor)
    yield host
    host.inject(FaultOrder(clear=True))


def test_a_file_there_and_back(paddock: Shell, web: str, tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK + 17)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "data").chmod(0o640)
    paddock.ok("cp", str(tmp_path / "data"), f"{web}:/srv/")
    paddock.ok("cp", f"{web}:/srv/data", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o640
    paddock.ok("cp", f"{web}:/etc/hostname", str(tmp_path))
    assert (tmp_path / "hostname").read_text() == f"{web}\n"
    (tmp_path / "empty").touch()
    paddock.ok("cp", str(tmp_path / "empty"), str(tmp_path / "hostname"), f"{web}:/root")
    paddock.ok("cp", f"{web}:/root/empty", f"{web}:/root/hostname", str(tmp_path / "shell"))
    assert (tmp_path / "shell/empty").read_bytes() == b""
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".paddock")]


def test_a_directory_there_and_back(paddock: Shell, web: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text("hello")
    (site / "sub/run").write_text("#!/bin/sh\n")
    (site / "sub/run").chmod(0o755)
    assert "-r copies directories" in paddock.fails("cp", str(site), f"{web}:/srv/")
    paddock.ok("cp", "-r", str(site), f"{web}:/srv/")
    assert "is there already" in paddock.fails("cp", "-r", str(site), f"{web}:/srv/")
    (site / "index.html").write_text("again")
    paddock.ok("cp", "-r", "--replace", str(site), f"{web}:/srv")
    assert "is a directory" in paddock.fails("cp", f"{web}:/srv/site", str(tmp_path / "x"))
    paddock.ok("cp", "-r", f"{web}:/srv/site", str(tmp_path / "back"))
    assert (tmp_path / "back/index.html").read_text() == "again"
    assert (tmp_path / "back/sub/run").stat().st_mode & 0o777 == 0o755
    assert "is there already" in paddock.fails("cp", "-r", f"{web}:/srv/site", str(tmp_path))
    (site / "index.html").unlink()
    paddock.ok("cp", "-r", "--replace", f"{web}:/srv/site", str(tmp_path))
    assert (site / "index.html").read_text() == "again"


def test_what_is_not_there(paddock: Shell, web: str, tmp_path: Path) -> None:
    assert "there is no /srv/none in " in paddock.fails("cp", f"{web}:/srv/none", str(tmp_path))
    (tmp_path / "f").write_text("x")
    assert "there is no directory /none" in paddock.fails("cp", str(tmp_path / "f"), f"{web}:/none/f")
    assert "No such file" in paddock.fails("cp", str(tmp_path / "none"), f"{web}:/srv/")
    assert "there is no directory" in paddock.fails("cp", f"{web}:/etc/hostname", str(tmp_path / "no/where"))
    assert "whole path" in paddock.fails("cp", f"{web}:etc/hostname", ".")
    assert "from here to a server" in paddock.fails("cp", str(tmp_path / "f"), str(tmp_path / "g"))
    assert "from here to a server" in paddock.fails("cp", f"{web}:/a", f"{web}:/b")


def test_sizes_are_limited(paddock: Shell, web: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5000))
    assert "--max-size allows more" in paddock.fails("cp", "--max-size", "4K", str(tmp_path / "large"), f"{web}:/srv/")
    paddock.ok("cp", str(tmp_path / "large"), f"{web}:/srv/large")
    said = paddock.fails("cp", "--max-size", "4K", f"{web}:/srv/large", str(tmp_path / "back"))
    assert "--max-size allows more" in said
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("times", [1, 2])
def test_a_guest_that_fails_half_way(
    paddock: Shell, web: str, host: RemoteHypervisor, tmp_path: Path, times: int
) -> None:
    """What was there before is there after, and nothing else is."""
    (tmp_path / "data").write_bytes(b"old" * CHUNK)
    paddock.ok("cp", str(tmp_path / "data"), f"{web}:/srv/data")
    (tmp_path / "new").write_bytes(b"new" * CHUNK)
    failure = Failure(operation="write_file", message="the guest agent does not answer", after=times == 2)
    host.inject(FaultOrder(fail=(failure,)))
    assert "does not answer" in paddock.fails("cp", str(tmp_path / "new"), f"{web}:/srv/data")
    host.inject(FaultOrder(fail=(Failure(operation="read_file", message="it is gone", after=times == 2),)))
    (tmp_path / "back").write_text("before")
    said = paddock.fails("cp", f"{web}:/srv/data", str(tmp_path / "back"))
    assert "was cut" in said
    assert (tmp_path / "back").read_text() == "before"
    paddock.ok("cp", f"{web}:/srv/data", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"old" * CHUNK
    paddock.ok("cp", "-r", f"{web}:/srv", str(tmp_path / "all"))
    assert sorted(os.listdir(tmp_path / "all")) == ["data"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".paddock")]


def test_paths_that_are_none(live: LiveApi, web: str, cloud: Cloud) -> None:
    caller = Caller()
    server = caller.ok("GET", f"/v1/servers?name={web}")["servers"][0]["id"]
    headers = {"Authorization": f"Bearer {caller.token}"}
    for query in ("", "path=relative", "path=/a%0Ab", "path=/a%00", "path=/srv/x&name=a/b", "path=/x&mode=9"):
        answer = live.http.put(f"/x/v1/servers/{server}/files?{query}", headers=headers, content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input"), query
