"""From an installer's CD to servers of the template: the way of docs/templates.md, whatever the installer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paddock.base import clock
from tests.guests.person import console, paddock
from tests.guests.stack import Stack
from tests.long.person import identity

INSTALLATION = 3 * 3600.0  # seconds under TCG, on a busy host
BOOT = 900.0

Note = Callable[[str, object], None]


def installed(cloud: Stack, home: Path, cd: Path, steps: tuple[str, ...], note: Note) -> int:
    """The server that an installer's CD was booted in, once that has switched it off. It must have said `steps`."""
    imported = paddock(cloud, home, "iso", "import", str(cd), "--name", "installer")
    assert imported.code == 0, imported
    server, action = cloud.create("template", image=None, server_type="micro", x_iso="installer")
    cloud.done(action)
    began, seen = clock.monotonic(), list[str]()
    while cloud.server(server)["status"] == "running":
        said = console(cloud, server)
        took = clock.monotonic() - began
        for step in steps:
            if step not in seen and step in said:
                seen.append(step)
                print(f"{took / 60:6.1f} min  {step}", flush=True)
        assert took < INSTALLATION, f"the installation has not ended: {said[-1500:]}"
        clock.sleep(2)
    assert seen == list(steps), console(cloud, server)[-6000:]
    note("note", f"the installer took {(clock.monotonic() - began) / 60:.0f} minutes")
    return server


def is_good(cloud: Stack, home: Path, server: int) -> None:
    """It boots what was installed, and the list of what makes a template good finds nothing missing."""
    cloud.done(cloud.post(f"/v1/servers/{server}/actions/detach_iso")["action"]["id"])
    cloud.done(cloud.power(server, "poweron"))
    cloud.ready(server, BOOT)
    cloud.ssh(as_root(cloud, server), "cloud-init status --wait > /dev/null", BOOT)
    checked = paddock(cloud, home, "image", "check", "template", "-l", "root")
    print(checked.stdout, checked.stderr)
    assert checked.code == 0, checked
    assert "template is a good template" in checked.stdout
    found = {line[:17].strip(): line[17:].split()[0] for line in checked.stdout.splitlines()[1:8]}
    assert set(found.values()) == {"yes"}, found


def makes_others(cloud: Stack, home: Path, server: int) -> None:
    """A server of its image is let into by its key, and shares nothing with it that two must not share."""
    before = identity(cloud, as_root(cloud, server))
    made = paddock(cloud, home, "image", "create", "my-debian", "--from", "template")
    print(made.stdout, made.stderr)
    assert made.code == 0, made
    cloud.done(cloud.power(server, "shutdown"), 300)
    created, action = cloud.create("copy", image="my-debian", server_type="micro")
    cloud.done(action, 300)
    cloud.ready(created, BOOT)
    cloud.ssh(as_root(cloud, created), "cloud-init status --wait > /dev/null", BOOT)
    after = identity(cloud, as_root(cloud, created))
    assert after["hostname"] == "copy"
    assert before.keys() == after.keys()
    assert [what for what in before if before[what] == after[what]] == []
    assert before["machine-id"] not in after.get("journal", "")
    assert cloud.ssh(as_root(cloud, created), "systemctl --failed --plain --no-legend") == ""
    cloud.remove(server, created)
    cloud.nothing_left()


def as_root(cloud: Stack, server: int) -> dict[str, Any]:
    """The server, for those who log in as root, whoever its cloud-init would let in."""
    found = cloud.server(server)
    return {**found, "x_ssh": {**found["x_ssh"], "user": "root"}}
