"""One thing that a host must have: what was found, and what to do about it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from paddock.base.errors import PaddockError


@dataclass(frozen=True)
class Check:
    """`warn`: it works without, less well or less safely. `fail`: something will not work."""

    name: str
    result: Literal["ok", "warn", "fail"]
    found: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def warn(name: str, found: str, hint: str) -> Check:
    return Check(name, "warn", found, hint)


def fail(name: str, found: str, hint: str) -> Check:
    return Check(name, "fail", found, hint)


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """The check, or if looking itself failed, that."""
    try:
        return look()
    except PaddockError as e:
        return fail(name, e.message, e.hint)
    except OSError as e:
        return fail(name, f"can't be found out: {e}", "see the message")
