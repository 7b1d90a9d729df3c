"""Django on a real PostgreSQL, and a node whose hypervisor is the fake in a process of its own."""

import os
from collections.abc import Iterator

import pytest

from tests.cloud import database

database.start()
os.environ["DJANGO_SETTINGS_MODULE"] = "paddock.cloud.settings"

import paddock.cloud.prepare as prepare  # sets Django up

from tests.agent.process import AgentProcess
from tests.cloud.harness import Cloud


@pytest.fixture(scope="session", autouse=True)
def _schema() -> None:
    prepare.main()


@pytest.fixture(scope="session")
def _agents() -> Iterator[dict[str, AgentProcess]]:
    """Those that were started, by driver. pytest ends a fixture with parameters after each test that has some."""
    agents: dict[str, AgentProcess] = {}
    yield agents
    for process in agents.values():
        process.close()


@pytest.fixture(scope="session")
def agent(request: pytest.FixtureRequest, _agents: dict[str, AgentProcess]) -> AgentProcess:
    """The node's agent: of the fake, unless a test is parametrized by another driver."""
    driver = getattr(request, "param", "fake")
    if driver not in _agents:
        _agents[driver] = AgentProcess(driver)
        _agents[driver].start()
    return _agents[driver]


@pytest.fixture
def cloud(agent: AgentProcess) -> Iterator[Cloud]:
    """A cloud of one node with room for everything, and a ready image."""
    cloud = Cloud(agent)
    cloud.begin()
    yield cloud
    cloud.reset()
