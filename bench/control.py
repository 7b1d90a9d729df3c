"""Figures of the control plane alone, on the fake hypervisor: a list, a stream of creates, and an idle minute."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from bench.figure import Figure, median, spread
from bench.host import cpu_by_name, less, listed
from bench.stack import SERVER, Stack
from paddock.base import clock

LISTED = 10_000
PAGE = 50
CREATES = 200
CLIENTS = 4
OWN = 100  # servers of each project where scale is measured
SCALE = {"a page of the list": "/v1/servers?per_page=50&page=2", "one by id": "/v1/servers/{id}",
         "one by name": "/v1/servers?name={name}", "by a label": "/v1/servers?label_selector=n%3D3"}  # fmt: skip


def listing(stack: Stack, rounds: int) -> Iterator[Figure]:
    """A page of servers among ten thousand, over HTTP."""
    stack.seed("--servers", str(LISTED))
    small, large = stack.seed("--queries").split()
    took = []
    for n in range(rounds * 4):
        began = clock.monotonic()
        reply = stack.client.get(f"/v1/servers?per_page={PAGE}&page={1 + n * 37 % (LISTED // PAGE)}")
        took.append((clock.monotonic() - began) * 1000)
        assert len(reply.json()["servers"]) == PAGE
    yield Figure("queries for a page of 10, less those for one of 50", float(large) - float(small), "", limit=0,
                 note=f"{large} each")  # fmt: skip
    yield Figure(f"GET /v1/servers, {PAGE} among {LISTED}", median(took), "ms", limit=25, note=spread(took))


def scale(stack: Stack, rounds: int) -> Iterator[Figure]:
    """What a project with a hundred servers waits for its answers when all projects have 100,000, and when 1,000."""
    stack.seed("--servers", str(OWN))
    stack.seed("--projects", "9", "--servers", str(9 * OWN))
    few = _asked(stack, rounds)
    stack.seed("--projects", "990", "--servers", str(990 * OWN))
    for what, took in _asked(stack, rounds).items():
        yield Figure(f"servers, {what}: among 100,000 and 1,000", median(took), "ms", raw=median(few[what]), limit=2,
                     note=f"{spread(took)}; not raw QEMU but 1,000: {spread(few[what])}")  # fmt: skip


def _asked(stack: Stack, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each question; in turns, so that what else the host does meets all of them."""
    found = stack.call("GET", f"/v1/servers?per_page=1&page={OWN // 2}")["servers"][0]
    took: dict[str, list[float]] = {what: [] for what in SCALE}
    for _ in range(rounds * 4):
        for what, path in SCALE.items():
            began = clock.monotonic()
            reply = stack.client.get(path.format(id=found["id"], name=found["name"]))
            took[what].append((clock.monotonic() - began) * 1000)
            assert reply.is_success, reply.text
    return took


def creates(stack: Stack) -> Iterator[Figure]:
    """Creates by four clients, until the last server runs."""
    before = cpu_by_name(stack.pids())
    began = clock.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda n: _create_some(stack, n), range(CLIENTS)))
    asked = clock.monotonic() - began
    while stack.call("GET", "/v1/servers?status=running&per_page=1")["meta"]["pagination"]["total_entries"] < CREATES:
        assert clock.monotonic() - began < 120
        clock.sleep(0.1)
    took = clock.monotonic() - began
    cpu = less(cpu_by_name(stack.pids()), before, 1000 / CREATES)
    yield Figure("creates through the API on the fake, four clients", CREATES / took, "per s",
                 note=f"all accepted after {asked:.1f} s, all running after {took:.1f} s")  # fmt: skip
    yield Figure("our CPU per create on the fake", sum(cpu.values()), "ms", note=listed(cpu))


def idle(stack: Stack, seconds: float) -> Iterator[Figure]:
    """What the processes cost when nobody asks for anything."""
    clock.sleep(3)
    before = cpu_by_name(stack.pids())
    clock.sleep(seconds)
    spent = less(cpu_by_name(stack.pids()), before, 100 / seconds)
    yield Figure("idle CPU of all our processes", sum(spent.values()), "% of a core", limit=2, note=listed(spent, 1))


def _create_some(stack: Stack, client: int) -> None:
    """A client of its own, as another program would be."""
    where, headers = stack.client.base_url, stack.client.headers
    with httpx.Client(base_url=where, headers=headers, timeout=60, trust_env=False) as http:
        for n in range(CREATES // CLIENTS):
            body = {**SERVER, "name": f"c{client}-{n}"}
            reply = http.post("/v1/servers", json=body)
            assert reply.status_code == 201, reply.text
