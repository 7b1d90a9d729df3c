"""Rules that need a running cloud take it from where the API's tests do."""

from tests.cloud.conftest import _agents, _schema, agent, cloud  # noqa: F401  # fixtures
from tests.api.conftest import door as door
from tests.api.conftest import live as live
