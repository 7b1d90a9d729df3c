"""Everything that is done to servers that exist: power, delete, steps, exec; one, several, groups."""

import json

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def status(cloud: Cloud) -> dict[str, str]:
    return {s["name"]: s["status"] for s in cloud.servers.values()}


def test_power_of_one_several_a_group_and_all(paddock: Shell, cloud: Cloud) -> None:
    for name, group in (("a", "g"), ("b", "g"), ("c", "")):
        cloud.add(name, x_group=group)
    assert paddock.ok("stop", "a") == "a is off\n"
    assert status(cloud) == {"a": "off", "b": "running", "c": "running"}
    assert paddock.ok("start", "a") == "a is running\n"
    assert paddock.ok("server", "poweroff", "--group", "g") == "a is off\nb is off\n"
    assert status(cloud) == {"a": "off", "b": "off", "c": "running"}
    paddock.ok("start", "--all")
    assert set(status(cloud).values()) == {"running"}
    assert paddock.ok("restart", "1") == "a is rebooting\n"
    assert paddock.ok("server", "reset", "n1/1001") == "b was reset\n"
    assert paddock.ok("stop", "--force", "c", "c", "3") == "c is off\n"


def test_standing_still_is_ours_and_not_of_v1(paddock: Shell, cloud: Cloud) -> None:
    for name in "ab":
        cloud.add(name, x_group="g")
    assert paddock.ok("pause", "a") == "a is paused\n"
    assert status(cloud) == {"a": "paused", "b": "running"}
    assert paddock.ok("server", "resume", "--group", "g") == "a is running\nb is running\n"
    assert status(cloud) == {"a": "running", "b": "running"}
    asked = [path for method, path, _ in cloud.requests if method == "POST"]
    assert asked == ["/x/v1/servers/1/actions/pause", *(f"/x/v1/servers/{n}/actions/resume" for n in (1, 2))]


def test_hibernate_and_wake(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a", x_ready={"ready": False, "by": [], "waiting_for": "", "after_seconds": None})
    assert paddock.ok("hibernate", "a") == "a is hibernated\n"
    assert "hibernated" in paddock.ok("ls")
    assert "not yet" not in paddock.ok("ls")
    assert paddock.ok("server", "wake", "a") == "a is running\n"
    asked = [path.rsplit("/", 3)[1:] for method, path, _ in cloud.requests if method == "POST"]
    assert asked == [["1", "actions", "hibernate"], ["1", "actions", "wake"]]


def test_who_could_not_go_on_says_why(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a", status="hibernated")
    cloud.add("b", status="hibernated", x_problem="it started anew: its memory is damaged")
    done = paddock.run("start", "--all")
    assert done.stdout == "a is running\nb is running\n"
    assert "b: it started anew: its memory is damaged" in done.stderr
    assert "a: " not in done.stderr


def test_set(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a", x_autostart={"enabled": True, "order": 2, "delay": 30, "at": None}, x_description="the shop")
    assert paddock.ok("server", "set", "a", "--autostart", "--delay", "0", "-d", "") == "a is changed\n"
    assert "at its next start" in paddock.ok("server", "set", "a", "--kernel-args", "quiet", "--restart", "on-failure")
    paddock.ok("server", "set", "a", "--no-autostart", "--group", "g", "--role", "")
    assert [body for method, _, body in cloud.requests if method == "PUT"] == [
        {"x_description": "", "x_autostart": {"enabled": True, "delay": 0}},
        {"x_restart": "on-failure", "x_kernel_args": "quiet"},
        {"x_group": "g", "x_role": "", "x_autostart": {"enabled": False}},
    ]
    assert "nothing to change" in paddock.fails("server", "set", "a")
    shown = paddock.ok("server", "show", "a")
    assert "the shop" in shown
    assert "yes, order 2, the next ones 30 s later" in shown


def test_the_right_actions_are_asked_for(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a")
    for words in ("start", "server shutdown", "stop", "stop -f", "server poweroff", "restart", "server reset"):
        paddock.ok(*words.split(), "a", "--no-wait")
    asked = [path.rsplit("/", 1)[1] for method, path, _ in cloud.requests if method == "POST"]
    assert asked == ["poweron", "shutdown", "shutdown", "poweroff", "poweroff", "reboot", "reset"]


def test_a_guest_that_does_not_shut_down(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a")
    cloud.refuse_shutdown = True
    said = paddock.fails("stop", "a")
    assert "error: a: the guest did not shut down within 90 s\nhint: `paddock stop --force a` powers it off" in said


def test_delete(paddock: Shell, cloud: Cloud) -> None:
    for name in "abcd":
        cloud.add(name, x_group="g" if name in "cd" else "")
    assert paddock.ok("rm", "a", "b") == "a is deleted\nb is deleted\n"
    assert "hint: if you mean it: --yes" in paddock.fails("rm", "--group", "g")
    assert set(status(cloud)) == {"c", "d"}
    paddock.ok("rm", "--group", "g", "--yes")
    assert not cloud.servers
    assert paddock.ok("rm", "--all") == ""


def test_an_id_wins_over_a_name_of_digits(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("2")
    cloud.add("b")
    cloud.add("77")
    assert paddock.ok("server", "delete", "2") == "b is deleted\n"
    assert paddock.ok("server", "delete", "77") == "77 is deleted\n"
    assert set(status(cloud)) == {"2"}


def test_one_unknown_name_and_nothing_is_done(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    for words in (
        ("rm", "web", "wbe"),
        ("rm", "n1/1000", "n1/9"),
        ("stop", "web", "wbe"),
        ("rm", "-g", "nobody", "-y"),
    ):
        assert "error: there is no server " in paddock.fails(*words)
    assert "did you mean web?" in paddock.fails("server", "show", "wbe")
    assert "say which servers" in paddock.fails("rm")
    assert "say which servers" in paddock.fails("rm", "web", "--all")
    assert status(cloud) == {"web": "running"}
    cloud.servers.clear()
    assert "hint: there is no server at all yet" in paddock.fails("server", "show", "web")


def test_running_a_step_again(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert paddock.ok("server", "run-step", "web", "cloud_init") == "cloud_init of web is done\n"
    assert "error: step clone destroys data\nhint: if you mean it: --confirm web" in paddock.fails(
        "server", "run-step", "web", "clone"
    )
    assert "--confirm web" in paddock.fails("server", "run-step", "web", "clone", "--confirm", "wbe")
    paddock.ok("server", "run-step", "web", "clone", "--confirm", "web")
    assert "there are: clone, cloud_init" in paddock.fails("server", "run-step", "web", "nothing", code=2)


def test_exec(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert paddock.ok("exec", "web", "--", "ls", "-la") == "ls -la|\n"
    assert paddock.ok("exec", "-i", "web", "--", "cat", input="grüße") == "cat|grüße\n"
    done = paddock.run("exec", "web", "--", "false")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no\n")
    assert "cut short" in paddock.run("exec", "web", "--", "yes").stderr
    assert cloud.requests[-1][2] == {"argv": ["yes"], "stdin": "", "timeout": 60.0}
    assert "Missing argument" in paddock.fails("exec", "web", code=2)


def test_actions(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    paddock.ok("stop", "web")
    listed = json.loads(paddock.ok("action", "list", "web", "-o", "json"))
    assert [(a["command"], a["status"]) for a in listed] == [("shutdown", "success")]
    assert "Command:   shutdown" in paddock.ok("action", "show", "1")
    assert "action with ID '9' not found" in paddock.fails("action", "show", "9")


def test_ssh_keys(paddock: Shell, cloud: Cloud) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHs0bW9ja2tleW1vY2trZXltb2Nra2V5bW9ja2tl anna"
    assert "SSH key anna is added" in paddock.ok("ssh-key", "add", "anna", "-", input=key)
    assert "name is already used" in paddock.fails("ssh-key", "add", "anna", "-", input=key)
    assert "must begin with a key type" in paddock.fails("ssh-key", "add", "x", "-", input="rubbish")
    private = paddock.home / "id"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "is a private key: give the file that ends in .pub" in paddock.fails("ssh-key", "add", "x", private)
    assert paddock.ok("ssh-key", "list", "-q") == "anna\n"
    assert paddock.ok("ssh-key", "delete", "anna") == "SSH key anna is deleted\n"
    assert not cloud.keys


def test_a_state_of_ours_is_shown_found_and_answered(paddock: Shell, cloud: Cloud) -> None:
    """The API's word for what is paused is running, for what is hibernated, off."""
    for name, state in (("a", "paused"), ("b", "hibernated"), ("c", "running"), ("d", "off")):
        cloud.add(name, status=state)
    assert [(s["name"], s["status"]) for s in json.loads(paddock.ok("ls", "-o", "json"))] == [
        ("a", "running"), ("b", "off"), ("c", "running"), ("d", "off")
    ]  # fmt: skip
    assert paddock.ok("ls", "-q", "--status", "paused") == "a\n"
    assert paddock.ok("ls", "-q", "--status", "running") == "c\n"
    assert "Status:       hibernated\n" in paddock.ok("server", "show", "b")
    assert "a is paused" in paddock.fails("ssh", "a")
    assert json.loads(paddock.ok("inventory"))["all"]["hosts"] == ["c"]


def test_the_rescue_system_is_shown(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a", rescue_enabled=True)
    cloud.add("b", x_in_rescue=True)
    cloud.add("c", rescue_enabled=True, x_in_rescue=True)
    assert "Rescue:       at its next start, reboot or reset\n" in paddock.ok("server", "show", "a", columns=160)
    assert "is what runs; its next start, reboot or reset boots the own disk" in paddock.ok(
        "server", "show", "b", columns=160
    )
    assert "is what runs; its next start, reboot or reset boots it again" in paddock.ok(
        "server", "show", "c", columns=160
    )


def test_a_state_that_there_is_not_is_refused_at_once(paddock: Shell, cloud: Cloud) -> None:
    said = paddock.fails("ls", "--status", "pausd", code=2)
    assert "'--status': 'pausd' is not one of 'running', 'off', 'paused'" in said
    assert not cloud.requests
