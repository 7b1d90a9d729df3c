"""Errors, as a tree by what the caller can do about them.

Each carries what a person needs: what was tried, what came back, and a hint what to do. Errors cross
process borders as `code`, `message`, `hint` and `field`; `from_wire` makes the same class again.
"""

from typing import ClassVar


class PaddockError(Exception):
    """Anything that we report to a person. `str()` is one sentence without a full stop."""

    code: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Invalid(PaddockError):
    """The request is wrong; it will be as wrong the next time. Names the field."""

    code = "invalid_input"


class InvalidServerType(PaddockError):
    """The server can't become one of this type."""

    code = "invalid_server_type"


class NotFound(PaddockError):
    """There is no such thing (or none that the caller may know of)."""

    code = "not_found"


class Conflict(PaddockError):
    """The thing is in a state that does not allow this; the caller can change that."""

    code = "conflict"


class NameTaken(Conflict):
    """Another thing has this name, or this fingerprint."""

    code = "uniqueness_error"


class Locked(Conflict):
    """Another action is at work on it: wait for that, and ask again."""

    code = "locked"


class InUse(Conflict):
    """Something else stands on it."""

    code = "resource_in_use"


class Protected(Conflict):
    """Somebody protected it against this; they can take the protection away."""

    code = "protected"


class NotStopped(Conflict):
    """This needs the server to be off."""

    code = "server_not_stopped"


class AlreadyInGroup(Conflict):
    """The server is in a placement group already."""

    code = "already_in_placement_group"


class AlreadyAttached(Conflict):
    """The volume is at a server already."""

    code = "volume_already_attached"


class LimitExceeded(PaddockError):
    """The project may not have more of this. `field` names the limit."""

    code = "resource_limit_exceeded"


class PlacementFailed(PaddockError):
    """No node keeps the rules of the placement group."""

    code = "placement_error"


class NoSpace(PaddockError):
    """No node has room for a volume of this size."""

    code = "no_space_left_in_location"


class Refused(PaddockError):
    """This host or node can't do this, and will not be able to until somebody changes it."""

    code = "refused"


class Unsupported(Refused):
    """This node, driver or guest can't do what was asked; the message says which and why."""

    code = "unsupported_error"


class DiskFull(Refused):
    """No room on the file system that was written to."""

    code = "disk_full"


class NoRoom(PaddockError):
    """No node has room for it now; with less, or later, it may fit. The message says each node's reason."""

    code = "resource_unavailable"


class PortTaken(PaddockError):
    """The forwarded port is in use by somebody else: take another."""

    code = "port_taken"


class StaleEpoch(PaddockError):
    """A newer worker owns this machine: stop at once, change nothing."""

    code = "stale_epoch"


class Removed(StaleEpoch):
    """This machine was removed for good; its uuid is never used again."""

    code = "removed"


class Unavailable(PaddockError):
    """It did not answer, or not in time; trying again may help."""

    code = "unavailable"


class CommandFailed(PaddockError):
    """A program ended with another exit code than 0, or not in time."""

    code = "command_failed"


_BY_CODE: dict[str, type[PaddockError]] = {
    cls.code: cls
    for cls in (
        PaddockError,
        Invalid,
        InvalidServerType,
        NotFound,
        Conflict,
        NameTaken,
        InUse,
        Locked,
        Protected,
        NotStopped,
        AlreadyAttached,
        AlreadyInGroup,
        LimitExceeded,
        PlacementFailed,
        NoSpace,
        Refused,
        Unsupported,
        DiskFull,
        NoRoom,
        PortTaken,
        StaleEpoch,
        Removed,
        Unavailable,
        CommandFailed,
    )
}


def to_wire(error: PaddockError) -> dict[str, str]:
    """The error as a JSON object of strings."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "field": error.field}


def from_wire(wire: dict[str, str]) -> PaddockError:
    """The error that `to_wire` described; one of an unknown code becomes a plain PaddockError."""
    cls = _BY_CODE.get(wire.get("code", ""), PaddockError)
    return cls(wire.get("message", "unknown error"), hint=wire.get("hint", ""), field=wire.get("field", ""))
