"""Mounts and unmounts a volume in a running guest, through its guest agent.

The scripts are for any shell (Debian's, busybox), may run any number of times, and get what they work on as arguments.
"""

from uuid import UUID

from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.cloud.models import Server, Volume
from paddock.cloud.models.server import Status
from paddock.hypervisor.base import Hypervisor

BOOT_SECONDS = 300.0  # for the guest agent of a guest that boots
AGENT_SECONDS = 90.0  # for the guest agent of a guest that has booted: on a busy host systemd reloads slowly
MOUNT_TIMEOUT = 15.0  # seconds
UNMOUNT_TIMEOUT = 10.0
_NOT_YET = 75  # exit code of the script: the disk has not appeared

# $1: the device, $2: the directory, $3: the file system's type
_MOUNT = """
tries=0
until [ -b "$1" ]; do
  tries=$((tries + 1))
  if [ "$tries" -gt 5 ]; then echo "there is no $1 yet"; exit 75; fi
  sleep 1
done
mkdir -p "$2" || exit 1
touch /etc/fstab
grep -qF "$1 $2 " /etc/fstab || echo "$1 $2 $3 discard,nofail,defaults 0 0" >>/etc/fstab
if command -v systemctl >/dev/null 2>&1; then systemctl daemon-reload || true; fi
grep -qF " $2 " /proc/mounts || mount -t "$3" -o discard "$1" "$2"
"""

# What cannot be unmounted, since something in the guest uses it, is at least written out.
_UNMOUNT = """
disk=$(readlink -f "$1")
if [ -f /etc/fstab ] && grep -qF "$1 $2 " /etc/fstab; then
  grep -vF "$1 $2 " /etc/fstab >/etc/fstab.paddock
  cat /etc/fstab.paddock >/etc/fstab
  rm -f /etc/fstab.paddock
  if command -v systemctl >/dev/null 2>&1; then systemctl daemon-reload || true; fi
fi
sync
if [ -b "$disk" ]; then
  grep -e "^$disk[0-9]* " -e "^$1 " /proc/mounts | while read -r _ place _; do umount "$place" || exit 1; done
fi
"""


def mount(host: Hypervisor, machine: UUID, volume: Volume) -> None:
    """Mount the volume in the guest, now and at each boot. Raises Unavailable when no guest agent answers, or the guest
    does not see the disk yet, Refused with the guest's words when it can't be mounted."""
    kind = volume.format or "auto"
    done = host.guest.exec(machine, _script(_MOUNT, volume, kind), "", MOUNT_TIMEOUT)
    if done.exit_code == _NOT_YET:
        raise Unavailable(f"the guest has not seen the disk yet: {done.stdout.strip()[-500:]}")
    if done.exit_code:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given")[-500:]
        raise Refused(
            f"volume {volume.name} is attached, but the guest could not mount it: {said}",
            hint=f"mount {volume.linux_device} by hand",
        )


def unmount(host: Hypervisor, machine: UUID, volume: Volume) -> str:
    """Unmount the volume in the guest as well as that goes; a guest that does not answer has pulled worse plugs.
    Returns why it may still be mounted; empty: it is not."""
    try:
        done = host.guest.exec(machine, _script(_UNMOUNT, volume), "", UNMOUNT_TIMEOUT)
    except PaddockError as e:
        return e.message
    return (done.stderr.strip() or "the guest could not unmount it")[-500:] if done.exit_code else ""


def directory(volume: Volume) -> str:
    """Where in the guest it is mounted."""
    return f"/mnt/HC_Volume_{volume.pk}"


def check_can_mount(server: Server, volume: Volume) -> None:
    """Raises Refused when no guest runs, and none is about to."""
    if server.status == Status.INITIALIZING or server.status in (Status.STARTING, Status.RUNNING):
        return
    why = f"volume {volume.name} is attached, but not mounted: server {server.name} is {server.status}"
    raise Refused(why, hint=f"start the server, and mount {volume.linux_device} in it")


def check_agent_patience(volume: Volume, server: Server, error: Unavailable) -> None:
    """Raises Refused when the guest agent has not answered for long."""
    limit = AGENT_SECONDS if server.ready_at else BOOT_SECONDS
    if volume.waited > limit:
        why = f"volume {volume.name} is attached, but not mounted: no guest agent answered within {limit:g} s"
        raise Refused(f"{why}: {error.message}", hint=f"mount {volume.linux_device} by hand") from error


def _script(script: str, volume: Volume, *more: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script, "sh", volume.linux_device, directory(volume), *more)
