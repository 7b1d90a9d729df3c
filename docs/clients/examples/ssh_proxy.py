"""A SOCKS5 proxy through which tools that insist on a public address reach one server's SSH.

    python ssh_proxy.py SERVER PORT

It listens on PORT of the loopback interface. Whatever address a client asks for, it connects to the SSH of the server
of that name, which may come into being later: it is looked up in the API (HCLOUD_ENDPOINT, HCLOUD_TOKEN) each time.
Needs nothing but Python.
"""

import asyncio
import contextlib
import json
import os
import sys
import urllib.parse
import urllib.request

REFUSED = b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"  # host unreachable
GRANTED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
LENGTHS = {1: 4, 4: 16}  # of an address in the request: IPv4, IPv6; a name brings its own


def find(name: str) -> tuple[str, int] | None:
    """Where the server of that name is reached by SSH; None while there is no such place."""
    url = f"{os.environ['HCLOUD_ENDPOINT'].rstrip('/')}/servers?{urllib.parse.urlencode({'name': name})}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['HCLOUD_TOKEN']}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        servers = json.load(reply)["servers"]
    to = servers[0]["x_ssh"] if servers else None
    return (to["host"], to["port"]) if to else None


async def serve(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, from its greeting to its end."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
        await _greeting(reader, writer)
        to = await asyncio.to_thread(find, name)
        try:
            there, back = await asyncio.open_connection(*to) if to else (None, None)
        except OSError:
            there, back = None, None
        writer.write(GRANTED if there else REFUSED)
        if there and back:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        await writer.drain()


async def _greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RFC 1928: the methods of logging in, of which we take none; then the address, which we read and forget."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x00")
    *_, kind = await reader.readexactly(4)
    length = LENGTHS[kind] if kind in LENGTHS else (await reader.readexactly(1))[0]
    await reader.readexactly(length + 2)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError), contextlib.closing(target):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


async def main(name: str, port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(lambda r, w: serve(name, r, w), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
