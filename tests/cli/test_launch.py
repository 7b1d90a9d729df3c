"""`paddock launch`: nothing but an image, several, from a file, what goes wrong, and Ctrl-C."""

import json
import re
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

from paddock.cli import names
from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def test_nothing_but_an_image(paddock: Shell, cloud: Cloud) -> None:
    done = paddock.run("launch", "debian-12")
    assert done.returncode == 0, done.stderr
    server = cloud.servers[1]
    assert re.fullmatch(r"debian-12-[a-z]+-[a-z]+", server["name"])
    assert done.stdout.splitlines() == [
        f"{server['name']} (n1/1000) is ready by ssh+agent after 14 s",
        f"log in:  paddock ssh {server['name']}",
        "    or:  ssh -p 2200 root@127.0.0.1",
    ]
    assert server["server_type"]["name"] == "micro"
    assert "image: unpacking packages" in done.stderr
    for step in ("place", "image", "clone", "cloud_init", "start"):
        assert f"{server['name']}: {step} 100 ms" in done.stderr


def test_a_key_is_made_once_and_registered_once(paddock: Shell, cloud: Cloud) -> None:
    paddock.ok("launch", "tiny", "--no-wait")
    private = paddock.config / "id_ed25519"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(paddock.config.stat().st_mode) == 0o700
    text = private.with_suffix(".pub").read_text()
    paddock.ok("launch", "tiny", "--no-wait")
    assert private.with_suffix(".pub").read_text() == text
    assert [k["name"].split("@")[0] for k in cloud.keys.values()] == ["anna"]
    assert cloud.keys[1]["public_key"] == text.strip()


def test_two_launches_at_once_make_one_key(paddock: Shell, cloud: Cloud) -> None:
    both = [
        subprocess.Popen(paddock.argv("launch", "tiny", "--no-wait"), env=paddock.env, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [p.wait(30) for p in both] == [0, 0]
    assert len({k["public_key"] for k in cloud.keys.values()}) == 1


def test_your_own_key_is_used_when_you_have_one(paddock: Shell, cloud: Cloud) -> None:
    directory = paddock.home / ".ssh"
    directory.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "id_ed25519"], check=True)
    paddock.ok("launch", "tiny", "--no-wait")
    assert cloud.keys[1]["public_key"] == (directory / "id_ed25519.pub").read_text().strip()
    assert not (paddock.config / "id_ed25519").exists()


def test_a_name_that_another_key_has_gets_a_number(paddock: Shell, cloud: Cloud) -> None:
    paddock.ok("launch", "tiny", "--no-wait")
    name = cloud.keys[1]["name"]
    (paddock.config / "id_ed25519").unlink()
    (paddock.config / "id_ed25519.pub").unlink()
    paddock.ok("launch", "tiny", "--no-wait")
    assert [k["name"] for k in cloud.keys.values()] == [name, f"{name}-2"]


def test_everything_that_can_be_said(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    data.write_text("#cloud-config\n# grüße\n", encoding="utf-8")
    paddock.ok(
        "launch", "tiny", "-n", "web", "--type", "small", "--user-data", data, "-l", "env=prod", "-l", "tier=", "-g",
        "pf1", "--role", "web", "--restart", "on-failure", "--no-start", "--no-ssh-key", "-d", "the shop",
        "--autostart", "--order", "1", "--delay", "30", "--kernel-args", "quiet", "--node", "n2",
    )  # fmt: skip
    body = next(body for method, path, body in cloud.requests if (method, path) == ("POST", "/v1/servers"))
    assert body == {
        "name": "web", "server_type": "small", "image": 1, "ssh_keys": [], "labels": {"env": "prod", "tier": ""},
        "start_after_create": False, "x_restart": "on-failure", "user_data": "#cloud-config\n# grüße\n",
        "x_group": "pf1", "x_role": "web", "x_description": "the shop", "x_kernel_args": "quiet", "x_node": "n2",
        "x_autostart": {"enabled": True, "order": 1, "delay": 30},
    }  # fmt: skip
    assert cloud.servers[1]["status"] == "off"


def test_the_root_password_is_shown_once(paddock: Shell) -> None:
    assert "root password of web, shown only now: correct-horse" in paddock.ok(
        "launch", "tiny", "-n", "web", "--no-ssh-key"
    )
    made = json.loads(paddock.ok("launch", "tiny", "--no-ssh-key", "-o", "json"))
    assert made["root_password"] == "correct-horse"


def test_user_data_from_stdin(paddock: Shell, cloud: Cloud) -> None:
    paddock.ok("launch", "tiny", "--user-data", "-", "--no-wait", input="#!/bin/sh\n")
    assert cloud.requests[-1][2]["user_data"] == "#!/bin/sh\n"


def test_several_get_the_next_free_numbers(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web-2")
    made = json.loads(paddock.ok("launch", "tiny", "-n", "web", "--count", "3", "-o", "json"))
    assert [s["name"] for s in made] == ["web-1", "web-3", "web-4"]
    assert all(s["x_ready"]["ready"] for s in made)
    assert paddock.ok("launch", "tiny", "-n", "db", "--count", "2", "-q", "--no-wait") == "db-1\ndb-2\n"


def test_the_smallest_type_that_fits(paddock: Shell, cloud: Cloud) -> None:
    paddock.ok("launch", "tiny", "--memory", "1.5G", "--no-wait")
    paddock.ok("launch", "tiny", "--cpus", "3", "--no-wait")
    assert [s["server_type"]["name"] for s in cloud.servers.values()] == ["small", "medium"]
    said = paddock.fails("launch", "tiny", "--disk", "1T")
    assert "no server type has 1024 GB disk" in said


def test_a_set_from_a_file(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.write_text("# the shop\ntiny:2:pf1:web\ndebian-12:1:pf1:sql\n\n")
    made = json.loads(paddock.ok("launch", "-f", path, "-o", "json"))
    assert [(s["image"]["name"], s["x_group"], s["x_role"]) for s in made] == [
        ("tiny", "pf1", "web"), ("tiny", "pf1", "web"), ("debian-12", "pf1", "sql"),
    ]  # fmt: skip
    path.write_text("tiny:many:pf1:web\n")
    assert "line 1: 'tiny:many:pf1:web' is not image:count:group:role" in paddock.fails("launch", "-f", path)


def test_a_create_that_fails_says_why_and_what_to_do(paddock: Shell, cloud: Cloud) -> None:
    cloud.fail_step = "clone"
    said = paddock.fails("launch", "tiny", "-n", "web")
    assert "error: web: no room on n1\nhint: free some disk\n" in said
    assert "web: clone 100 ms failed: no room on n1" in said


def test_a_name_that_is_taken(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert "hint: choose another --name, or: paddock rm web" in paddock.fails("launch", "tiny", "-n", "web")


def test_deleted_while_it_is_made(paddock: Shell, cloud: Cloud) -> None:
    """Nothing is left to look at, so nobody is sent there. Its action says so, or its absence."""
    cloud.step_seconds = 1.0
    gone = threading.Timer(1.0, cloud.servers.clear)
    gone.start()
    try:
        said = paddock.fails("launch", "tiny", "-n", "web", "--no-start")
    finally:
        gone.join()
    assert "the server was deleted before this was done" in said or "web: was deleted meanwhile" in said
    assert "hint" not in said


def test_one_of_several_is_refused_and_the_others_go_on(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    said = paddock.fails("launch", "tiny", "-n", "bad_name", "--count", "2")
    assert said.count("must be a host name: letters a-z, digits, - and . only") == 2
    assert not cloud.servers


def test_not_ready_in_time_says_what_it_waits_for(paddock: Shell, cloud: Cloud) -> None:
    cloud.never_ready = True
    said = paddock.fails("launch", "tiny", "-n", "web", "--timeout", "1")
    assert "error: web: still not ready after 1 s: waits for ssh" in said
    assert "paddock server log web" in said


def test_bad_input_creates_nothing(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"#\xff")
    cloud.add("web")
    for words, expected in (
        (("debain-12",), "there is no image 'debain-12'\nhint: did you mean debian-12?"),
        (("tiny", "--type", "smal"), "there is no server type 'smal'\nhint: did you mean small?"),
        (("tiny", "--ssh-key", "nobody"), "there is no SSH key 'nobody'"),
        (("tiny", "--ssh-key", "/nowhere.pub"), "/nowhere.pub can't be read"),
        (("tiny", "--user-data", "/nowhere"), "user_data: /nowhere can't be read: No such file or directory"),
        (("tiny", "--user-data", str(binary)), f"{binary} is not UTF-8: byte 1 is 0xff"),
        (("tiny", "--label", "novalue"), "--label 'novalue' is not key=value"),
        (("tiny", "--memory", "lots"), "--memory 'lots' is no amount"),
        (("tiny", "--name", "web"), "name is already used"),
        (("tiny", "--name", "a_b"), "invalid input in field 'name': must be a host name"),
    ):  # fmt: skip
        assert expected in paddock.fails("launch", *words)
    for wrong in (
        ("tiny", "--count", "0"),
        ("tiny", "--restart", "always"),
        ("tiny", "-f", "x"),
        (),
        ("tiny", "--colour"),
    ):
        assert paddock.fails("launch", *wrong, code=2).startswith("error: ")
    assert len(cloud.servers) == 1


def test_ctrl_c_says_that_creation_goes_on(paddock: Shell, cloud: Cloud) -> None:
    cloud.never_ready = True
    process = subprocess.Popen(
        paddock.argv("launch", "tiny", "-n", "web"), env=paddock.env, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not cloud.servers and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "stopped waiting; creation goes on: web\nlook:    paddock server show web\ndelete:  paddock rm web\n" in said
    assert "Traceback" not in said


def test_an_api_that_restarts_while_we_wait(paddock: Shell, cloud: Cloud) -> None:
    cloud.ready_seconds = 1.0
    process = subprocess.Popen(
        paddock.argv("launch", "tiny", "-n", "web"), env=paddock.env, stdout=subprocess.PIPE, text=True
    )
    while not cloud.servers and process.poll() is None:
        time.sleep(0.02)
    cloud.broken_answers = 2
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert "web (n1/1000) is ready" in said


def test_names_are_valid_and_free() -> None:
    for image in ("debian-12", "Übung 1", "", "x" * 90):
        name = names.fresh(image, ())
        assert names.VALID.fullmatch(name)
        assert len(name) <= 63
    assert names.fresh("a", {f"a-{x}-{y}" for x in names.ADJECTIVES for y in names.ANIMALS}) not in ("a",)
    assert names.numbered("web", 2, {"web-1"}) == ["web-2", "web-3"]
    for bad in ("", "-a", "a-", "a_b", "A", "a..b", "é"):
        assert not names.VALID.fullmatch(bad)
