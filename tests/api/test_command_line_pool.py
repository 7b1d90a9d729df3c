"""`paddock pool`, on the real API: what is set, what nodes hold of it, and servers that begin from it."""

import re

import pytest

from paddock.cloud.flows import pool
from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.api.test_command_line_warm import told
from tests.cloud.harness import Cloud
from tests.cloud.test_pool import emptied  # noqa: F401  # a fixture
from tests.contract.harness import until

pytestmark = pytest.mark.usefixtures("emptied")


def looked_at(cloud: Cloud, count: int) -> None:
    """As a watcher looks at the node, until it holds so many."""
    pool.tell(cloud.node, cloud.host(), cloud.host().machines.facts())
    until(lambda: sum(warm.ready for warm in cloud.host().warm.warm_images()), lambda found: found == count)
    told(cloud)


def test_set_listed_used_and_deleted(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    assert len(anna.table("pool", "list")) == 1
    said = anna.ok("pool", "set", "tiny", "--type", "nano", "--count", "2")
    assert "2 guests of tiny for servers of type nano are held ready on each node" in said
    assert anna.table("pool", "list")[1][:4] == ["tiny", "nano", "n1", "0/2"]
    looked_at(cloud, 2)
    assert anna.table("pool", "list")[1][:4] == ["tiny", "nano", "n1", "2/2"]
    said = anna.ok("launch", "tiny", "-n", "web-1", "-t", "nano", "--no-ssh-key")
    assert re.search(r"^web-1 \(n1/\d+\) is ready by ssh\+agent after .*, from the pool$", said, re.MULTILINE)
    assert "from the pool: a guest was held ready" in anna.ok("server", "timeline", "web-1", columns=200)
    assert anna.json("server", "show", "web-1")["x_began"] == "pool"
    assert "is deleted" in anna.ok("pool", "delete", "tiny", "--type", "nano")
    assert anna.json("pool", "list") == []
    looked_at(cloud, 0)


def test_an_exception_for_a_node(anna: Person) -> None:  # noqa: F811
    anna.ok("pool", "set", "tiny", "--type", "nano", "--count", "3")
    assert "on n1" in anna.ok("pool", "set", "tiny", "--type", "nano", "--count", "0", "--node", "n1")
    [exception, general] = sorted(anna.json("pool", "list"), key=lambda p: p["count"])
    assert [held["wanted"] for held in exception["nodes"]] == [0]
    assert general["nodes"] == []
    anna.ok("pool", "set", "tiny", "--type", "nano", "--count", "4")  # again: it is changed
    assert sorted(p["count"] for p in anna.json("pool", "list")) == [0, 4]


def test_wrong_words(anna: Person, reader: Person) -> None:  # noqa: F811
    assert "--count" in anna.fails("pool", "set", "tiny", "--type", "nano", code=2)
    assert "there is no image 'tinny'" in anna.fails("pool", "set", "tinny", "--type", "nano", "--count", "1")
    assert "there is no server_type 'nona'" in anna.fails("pool", "set", "tiny", "--type", "nona", "--count", "1")
    assert "there is no node 'n9'" in anna.fails(
        "pool", "set", "tiny", "--type", "nano", "--count", "1", "--node", "n9"
    )
    assert "there is no pool of tiny" in anna.fails("pool", "delete", "tiny", "--type", "nano")
    reader.fails("pool", "set", "tiny", "--type", "nano", "--count", "1")
