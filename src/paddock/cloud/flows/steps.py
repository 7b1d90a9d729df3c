"""What a step may return, and what is known of a step.

`Next` is a closed union: mypy finds a step that forgets its successor and a successor that is no step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from paddock.cloud.models import Living

R = TypeVar("R", bound=Living)
F = TypeVar("F", bound=Callable[..., object])
Needs = Literal["any", "running", "stopped"]


@dataclass(frozen=True)
class Then(Generic[R]):
    """Go on with another step. `finishes`: the action that is being carried out has succeeded."""

    step: "Callable[[R], Next[R]]"
    finishes: bool = False


@dataclass(frozen=True)
class Again:
    """Run this step again in some seconds, or when somebody wakes the row."""

    seconds: float
    waiting_for: str


@dataclass(frozen=True)
class Done:
    """Nothing to do until somebody wakes the row."""


@dataclass(frozen=True)
class Gone:
    """The row has been deleted by this step."""


Next = Then[R] | Again | Done | Gone


@dataclass(frozen=True)
class StepInfo:
    """What an operator must know before running a step again (W21), and its time limit in seconds."""

    name: str
    seconds: float
    needs: Needs
    destroys: bool
    by_hand: bool


def step(
    *, seconds: float = 300, needs: Needs = "any", destroys: bool = False, by_hand: bool = True
) -> Callable[[F], F]:
    """Mark a method of a flow as a step. After `seconds` in it the action fails."""

    def mark(method: F) -> F:
        info = StepInfo(method.__name__, seconds, needs, destroys, by_hand)
        method.info = info  # type: ignore[attr-defined]  # functions take attributes
        return method

    return mark
