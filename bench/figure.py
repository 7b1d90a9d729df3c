"""A figure: what was measured, against what, and the limit it must keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median as middle


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`. With `raw` (same unit) the limit is on their ratio, else on the value itself."""

    name: str
    value: float
    unit: str
    raw: float | None = None
    limit: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.raw if self.raw else None

    @property
    def judged(self) -> float:
        """What is compared with the limit."""
        return self.value if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the limit was kept; None: there is none."""
        return None if self.limit is None else self.judged <= self.limit


def median(values: Sequence[float]) -> float:
    return float(middle(values))


def spread(values: Sequence[float], unit: str = "ms") -> str:
    """How far single values were from each other."""
    digits = 0 if unit == "ms" else 2
    return f"{min(values):.{digits}f}–{max(values):.{digits}f} {unit}, n={len(values)}"


def moment(text: str) -> float:
    """Seconds since the epoch of a time as our API writes it."""
    return datetime.fromisoformat(text).timestamp()
