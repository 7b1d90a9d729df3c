"""One cloud with real guests that the tests of all clients share, behind a proxy that judges its answers."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pycdlib
import pytest

from tests.clients.cloud import Place
from tests.clients.oracle import oracle
from tests.clients.specification import MISSING
from tests.guests.stack import Stack, show_logs, stack


def pytest_report_header() -> str:
    """Said once, above the tests."""
    return f"clients: {MISSING or 'every answer is validated'}"


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    with stack(workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def place(running: Stack, request: pytest.FixtureRequest) -> Iterator[Place]:
    """The cloud, for a file of tests: empty before and after."""
    running.wait_ready()
    failed = request.session.testsfailed
    with oracle(f"http://127.0.0.1:{running.ports[0]}") as proxy:
        made = Place(running, proxy)
        made.empty()
        try:
            yield made
        finally:
            made.empty()
            if request.session.testsfailed > failed:
                show_logs(running)
        made.nothing_left()


@pytest.fixture(autouse=True)
def judged(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails when an answer to it was none that clients know."""
    yield
    if "place" in request.fixturenames:
        place: Place = request.getfixturevalue("place")
        place.proxy.check()


@pytest.fixture(scope="session")
def iso_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ISO 9660 image."""
    made = tmp_path_factory.mktemp("iso") / "hello.iso"
    disc = pycdlib.PyCdlib()
    disc.new(vol_ident="HELLO", joliet=3)
    source = made.with_suffix(".txt")
    source.write_text(f"hello {uuid.uuid4()}\n")
    disc.add_file(str(source), "/HELLO.TXT;1", joliet_path="/hello.txt")
    disc.write(str(made))
    disc.close()
    return made
