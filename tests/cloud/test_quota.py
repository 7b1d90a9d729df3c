"""Quotas: what a project may have, also when two ask at once."""

from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from paddock.base.errors import LimitExceeded
from paddock.cloud.flows import quota, server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows import volume as volumes
from paddock.cloud.models import Action, Image, Project, Server, ServerType, Volume
from tests.cloud.harness import Cloud, at_once

ONE_NANO = {"servers": 1, "cores": 1, "memory_mib": 128, "disk_gib": 2}


def limit(**limits: int | None) -> None:
    Project.objects.filter(name="default").update(**{f"limit_{name}": most for name, most in limits.items()})


@pytest.mark.parametrize("name", list(ONE_NANO))
def test_a_server_over_the_limit_is_refused(cloud: Cloud, name: str) -> None:
    limit(**{name: ONE_NANO[name]})
    cloud.new_server("web-1")
    with pytest.raises(LimitExceeded, match="needs") as caught:
        cloud.new_server("web-2")
    assert caught.value.field == name
    assert (Server.objects.count(), Action.objects.count()) == (1, 1)
    cloud.settle()


@pytest.mark.parametrize("_", range(3))
def test_the_last_place_is_given_once(cloud: Cloud, _: int) -> None:
    limit(servers=1)
    asked = at_once(lambda: cloud.new_server("web-1"), lambda: cloud.new_server("web-2"))
    assert {type(answer) for answer in asked} == {Server, LimitExceeded}
    assert Server.objects.count() == 1
    cloud.settle()


def test_two_larger_types_at_once(cloud: Cloud) -> None:
    limit(cores=3)
    one, two = cloud.stopped_server("web-1"), cloud.stopped_server("web-2")
    small = ServerType.objects.get(name="small")
    asked = at_once(
        *(
            lambda row=row: wishes.change_type(row, small, upgrade_disk=False, live=False, correlation_id="")
            for row in (one, two)
        )
    )
    assert sorted(isinstance(a, LimitExceeded) for a in asked) == [False, True]
    cloud.settle()
    assert sum(Server.objects.values_list("cores", flat=True)) == cloud.node.claimed_cpus == 3


def test_a_smaller_type_needs_no_room(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    wishes.change_type(row, ServerType.objects.get(name="small"), upgrade_disk=False, live=False, correlation_id="")
    cloud.settle()
    limit(**dict.fromkeys(ONE_NANO, 0))
    wishes.change_type(row, ServerType.objects.get(name="nano"), upgrade_disk=False, live=False, correlation_id="")
    cloud.settle()
    wishes.rebuild(row, row.image, None, "", "")
    cloud.settle()
    row.refresh_from_db()
    assert (row.status, row.cores) == ("running", 1)


def test_snapshots_and_volumes(cloud: Cloud) -> None:
    row = cloud.running_server()
    limit(snapshots=1, volumes=1, volume_gib=10)
    wishes.create_image(row, "", {}, "")
    cloud.settle()
    with pytest.raises(LimitExceeded) as caught:
        wishes.create_image(row, "", {}, "")
    assert caught.value.field == "snapshots"
    assert Image.objects.filter(type="snapshot").count() == 1
    volumes.create(Volume(project=cloud.project(), name="a", size_gib=10), None, False)
    for size, name in ((11, "volumes"), (1, "volumes")):
        with pytest.raises(LimitExceeded) as caught:
            volumes.create(Volume(project=cloud.project(), name="b", size_gib=size), None, False)
        assert caught.value.field == name
    usage = quota.usage(cloud.project())
    assert usage == {**ONE_NANO, "volumes": 1, "volume_gib": 10, "snapshots": 1}
    assert quota.limits(cloud.project())["snapshots"] == 1
    cloud.settle()


def test_a_limit_of_another_thing_counts_nothing(cloud: Cloud) -> None:
    """A project without limits costs no query; one with a limit on volumes none for servers."""
    for limits in ({}, {"volumes": 1}):
        limit(**limits)
        project = cloud.project()
        with CaptureQueriesContext(connection) as asked, transaction.atomic():
            quota.check(project, servers=1, cores=1)
        assert len([q for q in asked if "cloud_" in q["sql"]]) == 0


def test_what_is_unlimited_is_unlimited(cloud: Cloud) -> None:
    usage: dict[str, Any] = quota.usage(cloud.project())
    assert set(usage.values()) == {0}
    assert set(quota.limits(cloud.project()).values()) == {None}
    with transaction.atomic():
        quota.check(cloud.project().pk, servers=10**6)


def test_nobody_waits_for_a_check_but_another_check(cloud: Cloud) -> None:
    """Writing a row of the project needs no more than to know that it is there."""
    limit(servers=5)
    project = cloud.project()
    with transaction.atomic():
        quota.check(project, servers=1)
        (made,) = at_once(
            lambda: Volume.objects.create(project=project, name="v", size_gib=1, step="rest", next_at=None)
        )
    assert isinstance(made, Volume)


def test_deleted_servers_count_until_they_are_gone(cloud: Cloud) -> None:
    limit(servers=1)
    row = cloud.running_server()
    server.delete(row)
    with pytest.raises(LimitExceeded):
        cloud.new_server("web-2")
    cloud.settle()
    cloud.running_server("web-2")
