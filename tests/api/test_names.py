"""Names alone, as the Tab key asks for them."""

from paddock.cloud.models import Image, Server
from tests.api.caller import Caller
from tests.cloud.harness import Cloud


def names(ask: Caller, of: str, prefix: str = "") -> list[str]:
    found = ask.ok("GET", f"/x/v1/names?of={of}&prefix={prefix}")["names"]
    assert isinstance(found, list)
    return found


def test_those_that_begin_so(ask: Caller, cloud: Cloud) -> None:
    for name in ("web-2", "web-1", "db", "w%b"):
        cloud.new_server(name)
    assert names(ask, "servers") == ["db", "w%b", "web-1", "web-2"]
    assert names(ask, "servers", "web-") == ["web-1", "web-2"]
    assert names(ask, "servers", "w%25") == ["w%b"], "no pattern"
    assert names(ask, "servers", "x") == []
    assert "nano" in names(ask, "server_types")


def test_what_can_be_chosen_of_images(ask: Caller) -> None:
    Image.objects.create(project=None, name="", type="system", step="rest", next_at=None)
    found = names(ask, "images")
    assert {"tiny", "ubuntu-24.04"} <= set(found)
    assert not {"centos-7", "rescue", ""} & set(found), "neither what is over nor what nobody chooses"


def test_what_is_no_collection_is_said(ask: Caller) -> None:
    ask.refused("GET", "/x/v1/names?of=tokens", None, 422, "invalid_input")
    ask.refused("GET", "/x/v1/names", None, 422, "invalid_input")


def test_ten_thousand_in_one_answer(ask: Caller, cloud: Cloud) -> None:
    like = cloud.new_server("like")
    columns = {
        f.attname: getattr(like, f.attname) for f in Server._meta.concrete_fields if f.attname not in ("id", "uuid")
    }
    Server.objects.bulk_create([Server(**{**columns, "name": f"web-{n:05}", "next_at": None}) for n in range(10_100)])
    assert len(names(ask, "servers", "web-")) == 10_000
    assert names(ask, "servers", "web-0999") == [f"web-0999{n}" for n in range(10)]
