"""A Debian that has been lived in, an image cleaned of it, and a server of that image: nobody would know the two for
brothers, and the one that it was made of has noticed nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guests.person import paddock
from tests.guests.stack import Stack
from tests.long.person import identity

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * 3600)]

BOOT = 900.0  # seconds under TCG, on a busy host
USER_DATA = "#cloud-config\nruncmd: [touch /root/ran-on-{name}]\n"
# What somebody leaves behind who works there: words to be looked for in what is made of it.
LIVE = """
echo 'history-of-alpha' >> /root/.bash_history
echo 'temporary-of-alpha' > /tmp/of-alpha
logger log-of-alpha
echo 'log-of-alpha' >> /var/log/of-alpha.log
ssh-keygen -q -t ed25519 -N '' -C user-key-of-alpha -f /root/.ssh/id_ed25519
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMalphaMalphaMalphaMalphaMalphaMalphaMalph stranger-of-alpha' \
    >> /root/.ssh/authorized_keys
useradd -m bob && echo 'bob:secret-of-alpha' | chpasswd
mkdir -p /srv/site && echo 'kept-of-alpha' > /srv/site/index.html
sync
"""
LOOK = r"""
cd /
grep -rlsE '(history|temporary|log|user-key|stranger)-of-alpha' root home tmp var/log var/tmp etc
grep -rlsw alpha etc var/lib/cloud var/lib/dhcp var/lib/systemd var/lib/NetworkManager
grep '^bob:[$]' etc/shadow
exit 0
"""


@pytest.mark.images("debian-12", "rescue")
def test_a_clone_of_a_cleaned_debian_is_a_system_of_its_own(
    cloud: Stack, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    alpha = _debian(cloud, "alpha", "debian-12")
    cloud.ssh(alpha, LIVE, 120)
    before = identity(cloud, alpha)
    made = paddock(cloud, tmp_path, "image", "create", "of-alpha", "--from", "alpha")
    print(made.stdout, made.stderr)
    assert made.code == 0, made

    assert identity(cloud, alpha) == before, "the original was touched"
    said = cloud.ssh(
        alpha, "cat /root/.bash_history /var/log/of-alpha.log; su bob -c id; grep -c '^bob:[$]' /etc/shadow"
    )
    assert "history-of-alpha" in said
    assert "log-of-alpha" in said
    assert said.endswith("\n1"), "bob's password is gone"
    cloud.done(cloud.power(alpha["id"], "shutdown"), 300)

    beta = _debian(cloud, "beta", "of-alpha")
    after = identity(cloud, beta)
    record_property("note", f"{len(after)} marks of identity compared: {', '.join(Path(k).name for k in after)}")
    assert after["hostname"] == "beta"
    assert before.keys() == after.keys()
    assert [what for what in before if before[what] == after[what]] == []
    assert before["machine-id"] not in after.get("journal", "")
    assert cloud.ssh(beta, LOOK, 300) == ""
    assert cloud.ssh(beta, "cat /srv/site/index.html; id -un bob; ls /root/ran-on-beta") == (
        "kept-of-alpha\nbob\n/root/ran-on-beta"
    ), "what was installed is gone, or its own user data was not run"
    assert int(cloud.ssh(beta, "df -k --output=size / | tail -n 1")) > 18 * 1024**2, "it did not grow to the disk"
    assert cloud.ssh(beta, "systemctl --failed --plain --no-legend") == ""
    cloud.remove(alpha["id"], beta["id"])
    cloud.nothing_left()


def _debian(cloud: Stack, name: str, image: str) -> dict[str, Any]:
    """A server of that image, once cloud-init is done."""
    created, action = cloud.create(name, image=image, server_type="micro", user_data=USER_DATA.format(name=name))
    cloud.done(action, 300)
    server = cloud.ready(created, BOOT)
    cloud.ssh(server, "cloud-init status --wait > /dev/null", BOOT)
    return server
