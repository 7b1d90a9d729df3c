"""Names for servers that nobody named: the image's name and two words, so that they can be told on the phone."""

import re
import secrets
from collections.abc import Collection

ADJECTIVES = (
    "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "crisp", "dapper", "eager", "early", "fair", "fleet",
    "fond", "gentle", "glad", "golden", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively",
    "lucky", "mellow", "merry", "mild", "neat", "noble", "patient", "plain", "proud", "quick", "quiet", "ready",
    "rosy", "shy", "silver", "sly", "smooth", "snug", "solid", "steady", "sunny", "swift", "tidy", "warm", "wise",
)  # fmt: skip
ANIMALS = (
    "badger", "bear", "beaver", "bison", "boar", "camel", "colt", "crane", "deer", "donkey", "eagle", "elk", "falcon",
    "ferret", "finch", "foal", "fox", "goat", "goose", "hare", "hawk", "hedgehog", "heron", "horse", "ibex", "jay",
    "kestrel", "lark", "lynx", "marten", "mole", "moose", "mule", "newt", "otter", "owl", "panda", "pony", "quail",
    "rabbit", "raven", "robin", "seal", "sheep", "stork", "swan", "tapir", "toad", "wren", "zebra",
)  # fmt: skip
VALID = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

IMAGE = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


def fresh(image: str, taken: Collection[str]) -> str:
    """A name that is not taken, such as debian-12-brave-otter."""
    prefix = re.sub(r"[^a-z0-9]+", "-", image.lower()).strip("-")[:40] or "server"
    while True:
        name = f"{prefix}-{secrets.choice(ADJECTIVES)}-{secrets.choice(ANIMALS)}"
        if name not in taken:
            return name
        prefix = f"{prefix}-{secrets.token_hex(1)}"


def numbered(name: str, count: int, taken: Collection[str]) -> list[str]:
    """`count` names made of one: web-1, web-2, ...; numbers that are taken are left out."""
    found: list[str] = []
    number = 1
    while len(found) < count:
        if f"{name}-{number}" not in taken:
            found.append(f"{name}-{number}")
        number += 1
    return found
