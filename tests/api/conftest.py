"""The cloud of tests/cloud, asked through its API."""

import pytest

from tests.cloud.conftest import _agents, _schema, agent, cloud  # noqa: F401  # fixtures
from tests.cloud.harness import Cloud  # after Django is set up

from tests.api.caller import Caller
from tests.api.live import LiveApi, shared
from tests.api.routes import Door


@pytest.fixture(scope="session")
def live(_schema: None) -> LiveApi:  # noqa: F811
    """The API, served by a process of its own."""
    return shared()


@pytest.fixture(scope="session")
def door(live: LiveApi) -> Door:
    """Where one knocks at any route."""
    return Door(live)


@pytest.fixture
def ask(cloud: Cloud) -> Caller:  # noqa: F811
    """A caller of the default project."""
    return Caller()
