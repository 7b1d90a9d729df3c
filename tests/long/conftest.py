"""These tests run where they are asked for by their marker, and write down how they went.

PADDOCK_LONG_RESULT names the file for that.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.stack import Stack, show_logs, stack
from tests.long.result import Result

RESULT = pytest.StashKey[Result]()
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only `-m long` runs them: they would take hours of any other run."""
    if "long" in str(config.option.markexpr).split():
        return
    long = [item for item in items if item.path.is_relative_to(HERE)]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "images(name, ...): of the catalogue, that the cloud of a long test has already")
    config.stash[RESULT] = Result.begun()
    config.pluginmanager.register(config.stash[RESULT], "long-result")


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = Path(os.environ.get("PADDOCK_LONG_RESULT") or os.devnull)
    result = session.config.stash[RESULT]
    if result.tests:
        before = target.read_text(encoding="utf-8") if target.exists() else ""
        target.write_text(result.text(before), encoding="utf-8")


@pytest.fixture
def cloud(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A cloud of the test's own, with the images that its mark `images` names."""
    wanted = request.node.get_closest_marker("images")
    failed = request.session.testsfailed
    with stack(images=wanted.args if wanted else ()) as made:
        yield made
        if request.session.testsfailed > failed:
            show_logs(made)
