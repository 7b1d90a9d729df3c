"""What is really used: by a server, by a node."""

from paddock.cloud.flows import node as nodes
from paddock.cloud.models import Image
from paddock.machine.spec import GIB
from tests.api.caller import Caller
from tests.cloud.harness import Cloud


def test_a_server_and_its_snapshots(cloud: Cloud) -> None:
    ask = Caller("default")
    host = cloud.running_server()
    manifest = {"files": [{"size": 5000}, {"size": 70}]}
    about = {"type": "snapshot", "state": "ready", "step": "rest", "next_at": None, "manifest": manifest}
    Image.objects.create(project=host.project, name="before", created_from_id=host.pk, description="x", **about)
    found = ask.ok("GET", f"/x/v1/servers/{host.pk}/sizes")["sizes"]
    assert (found["disk"] > 0, found["disk_limit"], found["memory"]) == (True, host.disk_gib * GIB, 0)
    assert [(s["name"], s["bytes"]) for s in found["snapshots"]] == [("before", 5070)]


def test_a_server_that_is_nowhere_yet(cloud: Cloud) -> None:
    host = cloud.new_server()
    found = Caller("default").ok("GET", f"/x/v1/servers/{host.pk}/sizes")["sizes"]
    assert (found["disk"], found["logs"], found["snapshots"]) == (0, 0, [])


def test_a_node(cloud: Cloud) -> None:
    cloud.running_server()
    nodes.look(cloud.node, 0, 0)
    use = Caller("default", operator=True).ok("GET", f"/admin/v1/nodes/{cloud.node.pk}")["node"]["use"]
    assert use["disk_machines"] > 0
    assert use["images"] >= 1
    assert use["disk"] - use["disk_free"] == sum(use[f"disk_{k}"] for k in ("machines", "images", "volumes", "others"))
    assert 0 < use["memory_free_mib"] < use["memory_mib"]
