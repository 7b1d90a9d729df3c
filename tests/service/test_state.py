"""Making, checking and locking a state directory."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.base.errors import Conflict, Refused
from paddock.base.run import run
from paddock.base.statedir import StateDir
from paddock.service import state
from tests.service.conftest import as_root

HOLD = """
import sys, time
from pathlib import Path
from paddock.base.statedir import StateDir
from paddock.service import state
kept = state.lock(StateDir(Path(sys.argv[1])))
print("locked", flush=True)
time.sleep(60)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_fresh_one_has_our_marker_and_is_private(place: Path) -> None:
    os.umask(0o000)
    try:
        made = StateDir(place / "new" / "state")
        state.make(made)
    finally:
        os.umask(0o022)
    assert mode(made.root) == (0o711 if os.geteuid() == 0 else 0o700)
    assert json.loads(made.marker.read_text())["version"] == state.VERSION
    assert {mode(p) for p in (made.run, made.log, made.uploads)} == {0o700}
    assert mode(made.secret_key) == 0o600
    assert mode(made.marker) == 0o600


def test_making_it_again_changes_nothing(directory: StateDir) -> None:
    before = {p: (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in directory.root.iterdir()}
    state.make(directory)
    assert before == {p: (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in directory.root.iterdir()}


def test_permissions_are_narrowed_and_never_widened(place: Path) -> None:
    for name, given, wanted in (("open", 0o777, 0o711), ("closed", 0o700, 0o700)):
        root = place / name
        root.mkdir()
        root.chmod(given)
        state.make(StateDir(root))
        assert mode(root) == (wanted if os.geteuid() == 0 else 0o700)


def test_a_directory_of_somebody_else_is_refused_and_left_alone(place: Path) -> None:
    (place / "thesis.tex").write_text("x")
    with pytest.raises(Refused, match=r"not empty.*thesis\.tex"):
        state.make(StateDir(place))
    assert [p.name for p in place.iterdir()] == ["thesis.tex"]


def test_paddock_toml_may_be_there_first(place: Path) -> None:
    (place / "paddock.toml").write_text("")
    (place / "catalogue.toml").write_text("")
    (place / "keys").mkdir()
    state.make(StateDir(place))


def test_a_newer_version_is_refused(directory: StateDir) -> None:
    directory.marker.write_text(json.dumps({"version": state.VERSION + 1, "paddock": "9.9"}))
    with pytest.raises(Refused, match=r"newer Paddock \(9\.9"):
        state.make(directory)


def test_a_marker_that_is_damaged_is_refused(directory: StateDir) -> None:
    directory.marker.write_text("{")
    with pytest.raises(Refused, match="can't be understood"):
        state.make(directory)


def test_a_file_is_refused(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(Refused, match="not a directory"):
        state.make(StateDir(place / "file"))


@as_root
def test_an_owner_that_is_not_us_is_refused(directory: StateDir) -> None:
    os.chown(directory.root, 65534, 65534)
    with pytest.raises(Refused, match="belongs to nobody, not to root"):
        state.make(directory)


def test_a_secret_that_others_can_read_is_refused(directory: StateDir) -> None:
    directory.secret_key.chmod(0o644)
    with pytest.raises(Refused, match="no secret any more"):
        state.make(directory)


def test_a_second_supervisor_is_told_who_the_first_is(directory: StateDir) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, directory.root], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        try:
            with pytest.raises(Conflict, match=f"process {first.pid} runs Paddock"):
                state.lock(directory)
            holder = state.holder(directory)
            assert holder is not None
            assert holder.pid == first.pid
        finally:
            first.kill()
    assert state.holder(directory) is None
    state.lock(directory).release()


def test_a_pid_that_does_not_hold_the_lock_is_nobody(directory: StateDir) -> None:
    directory.lock.write_text(f"{os.getpid()}\n")
    assert state.holder(directory) is None


def test_a_long_path_has_its_sockets_elsewhere(place: Path) -> None:
    long = StateDir(place / ("d" * 60) / ("e" * 40))
    state.make(long)
    elsewhere = long.run.readlink()
    try:
        assert len(str(long.agent_socket("n" * 32))) <= state.SOCKET_PATH_LIMIT
        assert mode(elsewhere) == 0o700
        (long.run / "x").write_text("")
        assert (elsewhere / "x").exists()
        state.make(long)
        assert long.run.readlink() == elsewhere
    finally:
        run(["rm", "-r", elsewhere])
    state.make(long)  # a restart of the host emptied the runtime directory
    assert long.run.readlink() != elsewhere
    assert long.run.is_dir()
    run(["rm", "-r", long.run.readlink()])


def test_a_link_to_somebody_elses_directory_is_not_followed(directory: StateDir, place: Path) -> None:
    directory.run.rmdir()
    (place / "open").mkdir(mode=0o777)
    (place / "open").chmod(0o777)
    directory.run.symlink_to(place / "open")
    state.make(directory)
    assert not directory.run.is_symlink()


@as_root
def test_a_parent_that_the_service_user_can_not_pass_is_named(directory: StateDir, place: Path) -> None:
    state.check_reachable(directory.root, state.service_identity())
    place.chmod(0o700)
    with pytest.raises(Refused, match=f"can't pass through {place}"):
        state.check_reachable(directory.root, state.service_identity())
