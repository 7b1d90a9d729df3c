"""`paddock image warm` and `cool`, and what `launch` and the timeline say of warm starts, on the real API."""

import re

import pytest

from paddock.cloud.models import Node
from paddock.machine.warm import WarmImage
from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.cloud.harness import Cloud


@pytest.fixture(autouse=True)
def _cold(cloud: Cloud) -> None:
    for found in cloud.host().warm.warm_images():
        cloud.host().warm.remove_warm(found.id)


def told(cloud: Cloud) -> None:
    """The node's facts reach the database, which a watcher sees to elsewhere."""
    facts = cloud.host().machines.facts().model_dump(mode="json")
    Node.objects.filter(name="n1").update(facts=facts)


def test_made_listed_used_and_dropped(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    assert len(anna.table("image", "warm")) == 1
    assert "image tiny is warm for servers of type nano" in anna.ok("image", "warm", "tiny", "--type", "nano")
    told(cloud)
    [_, line] = anna.table("image", "warm")
    assert line[:2] == ["tiny", "n1"]
    assert line[-1] == "ready"
    said = anna.ok("launch", "tiny", "-n", "web-1", "-t", "nano", "--no-ssh-key")
    assert re.search(r"^web-1 \(n1/\d+\) is ready by ssh\+agent after .*, from a warm image$", said, re.MULTILINE)
    assert "from a warm image" in anna.ok("server", "timeline", "web-1")
    anna.ok("launch", "tiny", "-n", "web-2", "-t", "nano", "--no-ssh-key", "--no-warm")
    assert "it boots: it was not asked for" in anna.ok("server", "timeline", "web-2", columns=200)
    assert "image tiny is warm no more" in anna.ok("image", "cool", "tiny")
    assert cloud.host().warm.warm_images() == ()


def test_wrong_words(anna: Person, reader: Person) -> None:  # noqa: F811
    assert "say for servers of which type" in anna.fails("image", "warm", "tiny", code=2)
    assert "there is no image 'tinny'" in anna.fails("image", "warm", "tinny", "--type", "nano")
    assert "there is no server type 'nona'" in anna.fails("image", "warm", "tiny", "--type", "nona")
    assert "'n9'" in anna.fails("image", "warm", "tiny", "--type", "nano", "--node", "n9")
    assert "no node keeps a warm image of tiny" in anna.fails("image", "cool", "tiny")
    reader.fails("image", "warm", "tiny", "--type", "nano")


def test_what_there_can_not_be_is_listed_with_the_reason(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    note = WarmImage(
        id="x", image="0" * 64, name="odd", scope="public", cpus=1, memory_mib=128, disk=1, unusable="no perl in it"
    )
    facts = {"warm": [note.model_dump(mode="json")]}
    Node.objects.filter(name="n1").update(facts=facts)
    assert "none: no perl in it" in anna.ok("image", "warm", columns=160)
    assert anna.json("image", "warm")[0]["unusable"] == "no perl in it"


def test_one_whose_memory_is_not_shared_says_so(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    kept = WarmImage(id="x", image="0" * 64, name="tiny", scope="public", cpus=1, memory_mib=128, disk=1, shared=False)
    Node.objects.filter(name="n1").update(facts={"warm": [kept.model_dump(mode="json")]})
    assert "ready, not shared" in anna.ok("image", "warm", columns=160)
    assert anna.json("image", "warm")[0]["shared"] is False
