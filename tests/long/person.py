"""Who a server is, as it says itself."""

from tests.guests.stack import Stack

_IDENTITY = """
printf 'hostname\\t'; hostname
printf 'machine-id\\t'; cat /etc/machine-id
printf 'instance\\t'; cat /var/lib/cloud/data/instance-id
printf 'random seed\\t'; sha256sum < /var/lib/systemd/random-seed
printf 'journal\\t'; ls /var/log/journal /run/log/journal 2> /dev/null | grep -E '^[0-9a-f]{32}$' | sort -u | xargs
for key in /etc/ssh/ssh_host_*_key.pub; do printf '%s\\t' "$key"; cut -d ' ' -f 2 "$key"; done
"""


def identity(cloud: Stack, server: dict[str, object]) -> dict[str, str]:
    """What two servers must not share: each thing and what it is, as the server itself says."""
    lines = cloud.ssh(server, _IDENTITY, 300).splitlines()
    return {name: value.strip() for name, _, value in (line.partition("\t") for line in lines) if value.strip()}
