"""Every way in which a download goes wrong, from a server of our own on loopback."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from paddock.base import certificates, clock
from paddock.base.errors import DiskFull, Invalid, PaddockError, Refused, Unavailable
from paddock.images import address
from paddock.images import download as downloads
from paddock.images.download import Limits, download
from paddock.machine.spec import MIB
from tests.images.website import Answer, Website

DATA = bytes(range(256)) * 4096  # a MiB
LIMITS = Limits(size=4 * MIB, reserve=0, stall=0.5, slowest=1, tries=3, pause=0.01, redirects=3)


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., bytes]:
    def fetched(url: str, *, anywhere: bool = True, trust: Path | None = None, **limits: float) -> bytes:
        part = tmp_path / "part"
        chosen = replace(LIMITS, **limits)  # type: ignore[arg-type]  # the test's own figures
        download(url, part, anywhere=anywhere, limits=chosen, say=lambda *_: None, trust=trust)
        return part.read_bytes()

    return fetched


Get = Callable[..., bytes]


def test_a_good_server(site: Website, get: Get) -> None:
    assert get(site.serves("/a", DATA)) == DATA
    assert site.asked[0][1]["accept-encoding"] == "identity"
    assert site.asked[0][1]["host"] == f"127.0.0.1:{site.server_port}"


def test_it_says_how_far_it_is(site: Website, tmp_path: Path) -> None:
    said: list[tuple[int, int | None]] = []
    url = site.serves("/a", DATA)
    download(url, tmp_path / "part", anywhere=True, limits=LIMITS, say=lambda *now: said.append(now))
    assert said[-1] == (MIB, MIB)


def cut_once(site: Website, path: str, at: int, **headers: str) -> str:
    """A server that breaks off the first time."""
    url = site.serves(path, DATA, **headers)
    good = site.behaviours[path]

    def broken(answer: Answer) -> None:
        site.behaviours[path] = good
        answer.begin(200, Content_Length=len(DATA), **headers)
        answer.wfile.write(DATA[:at])
        answer.cut()

    site.behaviours[path] = broken
    return url


def test_a_cut_is_mended_from_where_it_was(site: Website, get: Get) -> None:
    assert get(cut_once(site, "/a", 1000, ETag='"v1"')) == DATA
    assert site.asked[1][1]["range"] == "bytes=1000-"
    assert site.asked[1][1]["if-range"] == '"v1"'


def test_without_a_validator_it_begins_anew(site: Website, get: Get) -> None:
    assert get(cut_once(site, "/a", 1000)) == DATA
    assert "range" not in site.asked[1][1]


def test_a_weak_validator_proves_nothing(site: Website, get: Get) -> None:
    assert get(cut_once(site, "/a", 1000, ETag='W/"v1"')) == DATA
    assert "range" not in site.asked[1][1]


def test_a_file_that_changed_meanwhile(site: Website, get: Get) -> None:
    url = cut_once(site, "/a", 1000, ETag='"v1"')
    broken = site.behaviours["/a"]

    def then_another(answer: Answer) -> None:
        broken(answer)
        site.serves("/a", b"new" * 1000, ETag='"v2"')

    site.behaviours["/a"] = then_another
    assert get(url) == b"new" * 1000


def test_another_part_than_was_asked_for(site: Website, get: Get) -> None:
    url = cut_once(site, "/a", 1000, ETag='"v1"')
    good = site.serves("/b", DATA)

    def wrong(answer: Answer) -> None:
        answer.begin(206, Content_Length=1, Content_Range=f"bytes 5-5/{MIB}")
        answer.wfile.write(b"x")
        site.behaviours["/a"] = site.behaviours["/b"]

    broken = site.behaviours["/a"]

    def then_wrong(answer: Answer) -> None:
        broken(answer)
        site.behaviours["/a"] = wrong

    site.behaviours["/a"] = then_wrong
    assert good
    assert get(url) == DATA


def test_a_part_of_another_url_is_not_used(site: Website, get: Get, tmp_path: Path) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(404, Content_Length=0)
    (tmp_path / "part").write_bytes(b"old")
    (tmp_path / "part.json").write_text('{"url": "http://elsewhere/", "validator": "\\"v1\\""}')
    assert get(site.serves("/b", DATA, ETag='"v1"')) == DATA


def test_always_cut(site: Website, get: Get) -> None:
    def broken(answer: Answer) -> None:
        answer.begin(200, Content_Length=len(DATA))
        answer.wfile.write(DATA[:10])
        answer.cut()

    site.behaviours["/a"] = broken
    with pytest.raises(Refused, match="gave up after 3 tries"):
        get(site.url("/a"))
    assert len(site.asked) == 3


def test_shorter_than_said(site: Website, get: Get) -> None:
    """A body that ends in order, only not where the whole was said to end."""

    def short(answer: Answer) -> None:
        answer.begin(206, Content_Length=1, Content_Range=f"bytes 10-10/{MIB}", ETag='"v1"')
        answer.wfile.write(b"x")

    def first(answer: Answer) -> None:
        site.behaviours["/a"] = short
        answer.begin(200, Content_Length=MIB, ETag='"v1"')
        answer.wfile.write(DATA[:10])
        answer.cut()

    site.behaviours["/a"] = first
    with pytest.raises(Refused, match=f"sent 11 of {MIB} bytes|the rest of the file"):
        get(site.url("/a"))


def test_endless(site: Website, get: Get, tmp_path: Path) -> None:
    def endless(answer: Answer) -> None:
        answer.begin(200, Transfer_Encoding="chunked")
        while True:
            answer.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    site.behaviours["/a"] = endless
    with pytest.raises(Refused, match="over 4 MiB, which is the limit"):
        get(site.url("/a"))
    assert (tmp_path / "part").stat().st_size <= 5 * MIB


def test_too_large_as_said(site: Website, get: Get) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(200, Content_Length=5 * MIB)
    with pytest.raises(Refused, match="limit"):
        get(site.url("/a"))


def test_silence(site: Website, get: Get) -> None:
    def silent(answer: Answer) -> None:
        answer.begin(200, Content_Length=100)
        clock.sleep(0.5)

    site.behaviours["/a"] = silent
    with pytest.raises(Refused, match="gave up"):
        get(site.url("/a"), stall=0.1, tries=2)


def test_a_trickle(site: Website, get: Get) -> None:
    def trickle(answer: Answer) -> None:
        answer.begin(200, Content_Length=100)
        for _ in range(100):
            answer.wfile.write(b".")
            clock.sleep(0.02)

    site.behaviours["/a"] = trickle
    with pytest.raises(Refused, match="bytes came in"):
        get(site.url("/a"), stall=0.2, slowest=1000, tries=1)


def test_redirects_are_followed(site: Website, get: Get) -> None:
    site.serves("/c", DATA)
    site.behaviours["/a"] = lambda answer: answer.begin(302, Location="/b?x=1", Content_Length=0)
    site.behaviours["/b"] = lambda answer: answer.begin(307, Location=site.url("/c"), Content_Length=0)
    assert get(site.url("/a")) == DATA


def test_a_redirect_loop(site: Website, get: Get) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(301, Location="/a", Content_Length=0)
    with pytest.raises(Refused, match="redirects more than 3 times"):
        get(site.url("/a"))
    assert len(site.asked) == 4


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.org/a", "gopher://x"])
def test_a_redirect_elsewhere(site: Website, get: Get, location: str) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(302, Location=location, Content_Length=0)
    with pytest.raises(Refused, match="no url of http"):
        get(site.url("/a"))


def test_a_redirect_from_https_to_http() -> None:
    response = httpx.Response(302, headers={"Location": "http://example.org/b"})
    with pytest.raises(Refused, match="from https to http"):
        downloads._followed(httpx.URL("https://example.org/a"), response)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(site: Website, get: Get, status: int) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(status, Content_Length=0)
    with pytest.raises(Refused, match=f"answered {status}"):
        get(site.url("/a?secret=1"))
    assert len(site.asked) == 1


def test_a_server_that_is_unwell_is_asked_again(site: Website, get: Get) -> None:
    def unwell(answer: Answer) -> None:
        site.serves("/a", DATA)
        answer.begin(503, Content_Length=0)

    site.behaviours["/a"] = unwell
    assert get(site.url("/a")) == DATA


def test_errors_tell_no_secrets(site: Website, get: Get) -> None:
    site.behaviours["/a"] = lambda answer: answer.begin(404, Content_Length=0)
    with pytest.raises(Refused) as caught:
        get(site.url("/a?token=hunter2").replace("127.0.0.1", "me:hunter2@127.0.0.1"))
    assert "hunter2" not in str(caught.value)
    assert site.asked[0][1]["authorization"].startswith("Basic ")


def test_a_full_disk(site: Website, get: Get) -> None:
    with pytest.raises(DiskFull, match="there is room for 0 MiB"):
        get(site.serves("/a", DATA), reserve=2**60)


def test_nobody_listens(get: Get) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(Refused, match="gave up"):
            get(f"http://127.0.0.1:{unheard.getsockname()[1]}/a", tries=2)


# Addresses


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:169.254.169.254",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_addresses_that_a_project_may_not_ask(host: str) -> None:
    url = address.checked(f"http://[{host}]/" if ":" in host else f"http://{host}/")
    with pytest.raises(Refused, match="no address of the open internet"):
        address.resolve(url, anywhere=False)
    assert address.resolve(url, anywhere=True)


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "127.1", "localhost"])
def test_other_spellings_of_loopback(spelling: str) -> None:
    with pytest.raises(Refused, match="no address of the open internet"):
        address.resolve(address.checked(f"http://{spelling}/"), anywhere=False)


@pytest.mark.parametrize("host", ["1.1.1.1", "2606:4700:4700::1111"])
def test_addresses_of_the_open_internet(host: str) -> None:
    url = address.checked(f"http://[{host}]/" if ":" in host else f"http://{host}/")
    assert address.resolve(url, anywhere=False) == host


def test_a_name_with_one_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "1.1.1.1", "10.0.0.1")
    with pytest.raises(Refused, match=r"is 10\.0\.0\.1"):
        address.resolve(httpx.URL("http://both.example/"), anywhere=False)


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """What every name leads to from now on."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_our_own_address_is_not_the_open_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the host's firewall we would reach what the internet does not."""
    answers(monkeypatch, "1.1.1.1")
    monkeypatch.setattr(address, "_is_ours", lambda _: True)
    with pytest.raises(Refused):
        address.resolve(httpx.URL("http://me.example/"), anywhere=False)


def test_our_own_addresses_are_known() -> None:
    assert address._is_ours(ipaddress.ip_address("127.0.0.1"))
    assert not address._is_ours(ipaddress.ip_address("1.1.1.1"))


def test_a_redirect_to_a_private_address(site: Website, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each redirect is looked at anew: here the first address is let through, and the second is not."""
    looked: list[str] = []
    resolve = address.resolve

    def first_is_public(url: httpx.URL, anywhere: bool) -> str:
        looked.append(url.path)
        return "127.0.0.1" if len(looked) == 1 else resolve(url, anywhere)

    monkeypatch.setattr(address, "resolve", first_is_public)
    site.behaviours["/a"] = lambda answer: answer.begin(302, Location=site.url("/b"), Content_Length=0)
    with pytest.raises(Refused, match="no address of the open internet"):
        get(site.url("/a"), anywhere=False)
    assert (looked, len(site.asked)) == (["/a", "/b"], 1)


def test_the_name_is_resolved_once(site: Website, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was looked at, whatever the name says then."""
    real = socket.getaddrinfo

    def only_addresses(host: str, *rest: Any, **more: Any) -> object:
        assert host != "name.example", "the name was resolved again"
        return real(host, *rest, **more)

    monkeypatch.setattr(address, "resolve", lambda *_: "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", only_addresses)
    site.serves("/a", DATA)
    assert get(f"http://name.example:{site.server_port}/a") == DATA
    assert site.asked[0][1]["host"] == f"name.example:{site.server_port}"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/b",
        "file:///etc/passwd",
        "http://",
        "//a/b",
        "a",
        "",
        "http://a b/",
        "http://a/\n",
        "http://ä/",
        "x" * 3000,
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        address.checked(url)
    assert caught.value.field == "url"


def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises((Unavailable, PaddockError), match="can't be resolved"):
        address.resolve(address.checked("http://no-such-host.invalid/"), anywhere=True)


def test_an_authority_of_the_operators_own(tmp_path: Path, get: Get) -> None:
    """Its certificates are good when it was named, and refused at once when not."""
    pair = certificates.ensure(tmp_path / "tls", ["127.0.0.1"])
    ours, nobodys = tmp_path / "tls/ca.crt", tmp_path / "nobody"
    nobodys.write_text("no certificate")
    with Website(tls=pair) as site:
        url = site.serves("/a", DATA)
        with pytest.raises(Refused, match=r"is not trusted: .*certificate.*ca_file"):
            get(url, tries=99)
        with pytest.raises(Refused, match="can't be used"):
            get(url, trust=nobodys)
        with pytest.raises(Refused, match="can't be used"):
            get(url, trust=tmp_path / "missing")
        assert site.asked == []
        assert get(url, trust=ours) == DATA
        with pytest.raises(Refused, match="is not trusted"):
            get(url.replace("127.0.0.1", "localhost"), trust=ours)
