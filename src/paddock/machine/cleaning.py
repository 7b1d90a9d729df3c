"""What makes a system on a disk this one system and no other: removed from an image, so that each server made of it
gets its own.
"""

from enum import StrEnum

from paddock.machine.spec import Frozen, Sha256


class Trace(StrEnum):
    """Kinds of what two systems must not share."""

    HOST_KEYS = "host-keys"  # by which SSH knows the host
    MACHINE_ID = "machine-id"
    HOSTNAME = "hostname"
    LEASES = "leases"  # of DHCP, with the identifiers it was asked with
    NETWORK = "network"  # settings written for one network card
    AUTHORIZED_KEYS = "authorized-keys"  # who may log in by SSH
    USER_KEYS = "user-keys"  # users' own SSH keys, and the hosts they know
    PASSWORDS = "passwords"
    CLOUD_INIT = "cloud-init"  # what it has done already, and for whom
    LOGS = "logs"
    HISTORY = "history"  # of shells and editors
    RANDOM_SEED = "random-seed"
    TEMPORARY = "temporary"


NOTICED = "secrets"  # other keys: of web servers, of VPNs; named, never removed


class Cleaning(Frozen):
    """To be cleaned by a helper guest that boots the image `helper`; kinds in `keep` are left as they are."""

    helper: Sha256
    keep: tuple[Trace, ...] = ()
