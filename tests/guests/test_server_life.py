"""One server of `tiny` through what is done to servers while they live, asked of the API and seen in its guest."""

import os
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from paddock.base.errors import CommandFailed
from paddock.base.run import run
from tests.guests.stack import OPTIONS, Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_password_cd_type_and_rescue(cloud: Stack, tmp_path: Path) -> None:
    server = cloud.launch("life", server_type="micro")
    _a_new_password_lets_in(cloud, server, tmp_path)
    _a_cd_is_seen_and_gone(cloud, server, tmp_path)
    _more_cpus_and_memory_while_it_runs(cloud, server)
    _repaired_from_the_rescue_system(cloud, server)


def _act(cloud: Stack, server: dict[str, Any], command: str, **body: Any) -> dict[str, Any]:
    """Ask for it, and wait until it is done. Returns the answer to the request."""
    said: dict[str, Any] = cloud.post(f"/v1/servers/{server['id']}/actions/{command}", body)
    cloud.done(said["action"]["id"], 120)
    return said


def _by_password(cloud: Stack, server: dict[str, Any], place: Path, password: str) -> str:
    """What SSH says to somebody who has no key."""
    helper = place / "askpass"
    helper.write_text('#!/bin/sh\necho "$TEST_PASSWORD"\n')
    helper.chmod(0o700)
    asking = {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force", "TEST_PASSWORD": password}
    chosen = [o for o in OPTIONS if not o.startswith("BatchMode")]
    chosen += ["PubkeyAuthentication=no", "PreferredAuthentications=password", "NumberOfPasswordPrompts=1"]
    to = server["x_ssh"]
    argv = ["ssh", *(w for o in chosen for w in ("-o", o)), "-p", str(to["port"]), f"root@{to['host']}", "hostname"]
    return run(argv, timeout=40, env={**os.environ, **asking}).stdout.strip()


def _a_new_password_lets_in(cloud: Stack, server: dict[str, Any], place: Path) -> None:
    with pytest.raises(CommandFailed):
        _by_password(cloud, server, place, "guessed")
    password = _act(cloud, server, "reset_password")["root_password"]

    def let_in() -> str:
        try:
            return _by_password(cloud, server, place, password)
        except CommandFailed:
            return ""

    assert until(let_in, 20, "the password to let in") == "life"
    with pytest.raises(CommandFailed):
        _by_password(cloud, server, place, f"{password}x")
    assert cloud.ssh(server, "hostname") == "life", "keys go on letting in"


def _iso(place: Path) -> Path:
    made, text = place / "words.iso", place / "words.txt"
    text.write_text("words on a disc\n")
    disc = pycdlib.PyCdlib()
    disc.new(vol_ident="WORDS", rock_ridge="1.09")
    disc.add_file(str(text), "/WORDS.TXT;1", rr_name="words.txt")
    disc.write(str(made))
    disc.close()
    return made


def _a_cd_is_seen_and_gone(cloud: Stack, server: dict[str, Any], place: Path) -> None:
    data = _iso(place).read_bytes()
    iso = cloud.post("/x/v1/isos", {"name": "words", "size": len(data)})["iso"]["id"]
    sent = cloud.api.put(f"/x/v1/isos/{iso}/content", content=data)
    assert sent.is_success, sent.text
    cloud.done(sent.json()["action"]["id"])
    read = "for d in /dev/sr*; do mount -r -t iso9660 $d /mnt && cat /mnt/words.txt; umount /mnt; done 2>/dev/null; :"
    _act(cloud, server, "attach_iso", iso="words")
    assert until(lambda: cloud.ssh(server, read), 20, "the CD") == "words on a disc"
    _act(cloud, server, "detach_iso")
    until(lambda: cloud.ssh(server, read) == "", 20, "the CD to go")
    assert cloud.api.delete(f"/x/v1/isos/{iso}").is_success


def _more_cpus_and_memory_while_it_runs(cloud: Stack, server: dict[str, Any]) -> None:
    memory = "awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo"
    boot = cloud.ssh(server, "cat /proc/sys/kernel/random/boot_id")
    assert (cloud.ssh(server, "nproc"), int(cloud.ssh(server, memory)) < 1024) == ("1", True)
    _act(cloud, server, "change_type", server_type="small", upgrade_disk=False, x_live=True)
    until(lambda: cloud.ssh(server, "nproc") == "2", 20, "the second CPU")
    until(lambda: int(cloud.ssh(server, memory)) > 1800, 20, "the memory")
    assert cloud.ssh(server, "cat /proc/sys/kernel/random/boot_id") == boot
    assert cloud.server(server["id"])["server_type"]["name"] == "small"


def _repaired_from_the_rescue_system(cloud: Stack, server: dict[str, Any]) -> None:
    """Logged in there by the given key, with the server's disk at hand; a reboot in it leads back."""
    cloud.ssh(server, "echo broken > /root/state; sync")
    _act(cloud, server, "enable_rescue", ssh_keys=["tester"])
    assert cloud.server(server["id"])["rescue_enabled"]
    _act(cloud, server, "reboot")
    until(lambda: _hostname(cloud, server) == "rescue", 120, "the rescue system", every=0.5)
    assert not cloud.server(server["id"])["rescue_enabled"]
    assert cloud.ssh(server, "mount /dev/sda /mnt && cat /mnt/root/state") == "broken"
    cloud.ssh(server, "echo repaired > /mnt/root/state && umount /mnt")
    cloud.ssh(server, "(sleep 1; reboot) > /dev/null 2>&1 &")
    until(lambda: _hostname(cloud, server) == "life", 120, "its own system", every=0.5)
    assert cloud.ssh(server, "cat /root/state; nproc").split() == ["repaired", "2"]


def _hostname(cloud: Stack, server: dict[str, Any]) -> str:
    """What SSH says, empty where nobody answers: a guest that goes down may hang."""
    try:
        return run([*cloud.ssh_argv(server), "hostname"], timeout=25, check=False).stdout.strip()
    except CommandFailed:
        return ""
