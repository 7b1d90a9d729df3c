"""Labels: what they may be, and selectors over them, in the syntax that Kubernetes made common."""

import re

from django.db.models import Q

from paddock.api.errors import invalid

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_PREFIX = r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?"
_KEY = re.compile(_PREFIX + _WORD)
_VALUE = re.compile(f"(?:{_WORD})?")
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)\s*)?(?P<key>{_PREFIX}{_WORD})"
    rf"(?:\s*(?P<op>==|=|!=)\s*(?P<value>(?:{_WORD})?)|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*"
)


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Keys and values as Kubernetes has them. Raises ValueError naming the wrong one."""
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"key {key[:80]!r} is no label: up to 63 of A-Z a-z 0-9 . _ -, perhaps after a domain and /"
            )
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {key!r} must be up to 63 of A-Z a-z 0-9 . _ -, or nothing")
    return labels


def labels_match(selector: str) -> Q:
    """A label selector (`k=v`, `k!=v`, `k`, `!k`, `k in (a,b)`, `k notin (a,b)`, joined by commas) as a condition."""
    wanted, position = Q(), 0
    while position <= len(selector):
        match = _TERM.match(selector, position)
        if match is None or (match.end() < len(selector) and selector[match.end()] != ","):
            raise invalid("label_selector", f"can't be read from character {position + 1} on")
        wanted &= _condition(match)
        position = match.end() + 1
    return wanted


def _condition(match: "re.Match[str]") -> Q:
    key, value = match["key"], match["value"]
    has = Q(labels__has_key=key)
    if match["absent"]:
        return ~has
    if match["set"]:
        values = [v.strip() for v in match["values"].split(",")]
        if wrong := [v for v in values if not _VALUE.fullmatch(v)]:
            raise invalid("label_selector", f"'{wrong[0][:80]}' is no value of a label")
        among = Q(labels__contains={key: values[0]})
        for one in values[1:]:
            among |= Q(labels__contains={key: one})
        return among if match["set"] == "in" else ~among
    if match["op"] in ("=", "=="):
        return Q(labels__contains={key: value})
    if match["op"] == "!=":
        return ~Q(labels__contains={key: value})
    return has
