"""Which addresses an image may be fetched from: only those of the open internet, unless the operator allows more.

A name is resolved once and the connection goes to what was looked at, so that a name that changes its mind in between
(DNS rebinding) gains nothing; each redirect is looked at in the same way.
"""

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import httpx

from paddock.base.errors import Invalid, Refused, Unavailable

MAX_URL = 2000  # characters
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_SETTING = "the operator can allow it: `allow_private_addresses = true` under `[images]` in paddock.toml"


def checked(url: str) -> httpx.URL:
    """The URL, if it is one that an image could be fetched from. Raises Invalid (field `url`)."""
    if len(url) > MAX_URL:
        raise Invalid(f"the url has {len(url)} characters, and may have {MAX_URL}", field="url")
    if not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
        raise Invalid("the url has blanks, control characters or letters beyond ASCII: encode them", field="url")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise Invalid(f"the url is none: {e}", field="url") from e
    if parsed.scheme not in _PORTS or not parsed.host:
        raise Invalid("the url must begin with http:// or https:// and name a host", field="url")
    return parsed


def shown(url: httpx.URL) -> str:
    """The URL for people and logs: without user, password and query, which may be secrets."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


def resolve(url: httpx.URL, anywhere: bool) -> str:
    """The address to connect to. Without `anywhere`, raises Refused when the name leads to an address that is not of
    the open internet; raises Unavailable when it leads nowhere."""
    port = url.port or _PORTS[url.scheme]
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise Unavailable(f"the name {url.host} can't be resolved: {e}") from e
    addresses = [str(entry[4][0]) for entry in found]
    if not anywhere and (private := [a for a in addresses if not _is_public(a)]):
        raise Refused(f"{url.host} is {private[0]}, which is no address of the open internet", hint=_SETTING)
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return all(i.is_global and not i.is_multicast for i in (ip, *_within(ip))) and not _is_ours(ip)


def _within(ip: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address may be carried on to."""
    if isinstance(ip, IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(IPv4Address(int(ip) & 0xFFFFFFFF))
    return [i for i in found if i is not None]


def _is_ours(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it is this host's own address, behind whose firewall we are. Nothing is sent to find out."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(ip), 9))
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == ip)
    except OSError:
        return False  # no way there at all
