"""One cloud with two workers that most of these tests share; those that break it for good make their own."""

from collections.abc import Iterator

import pytest

from tests.guests.stack import Stack, show_logs, stack


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[Stack]:
    with stack(workers=2, images=("tiny", "rescue")) as made:
        yield made


@pytest.fixture
def cloud(shared_stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The shared cloud, running and without servers, before and after."""
    shared_stack.wait_ready()
    failed = request.session.testsfailed
    yield shared_stack
    shared_stack.wait_ready()
    shared_stack.remove(*[s["id"] for s in shared_stack.servers()])
    if request.session.testsfailed > failed:
        show_logs(shared_stack)
    shared_stack.nothing_left()
