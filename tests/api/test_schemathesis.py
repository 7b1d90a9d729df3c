"""Every operation of our own description, asked with what its schema allows and with what it does not: nothing is
answered by 5xx, and nothing otherwise than described.

The same requests in every run; PADDOCK_SCHEMATHESIS=<number> asks each operation that many times, by chance.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from paddock.cloud.models import Image, PlacementGroup, Project, ServerType, SSHKey, Token, Volume
from tests.api.live import LiveApi
from tests.cloud.harness import Cloud

pytestmark = pytest.mark.slow

ASKED = int(os.environ.get("PADDOCK_SCHEMATHESIS", "0"))
EXAMPLES = settings(
    max_examples=ASKED or 6, derandomize=not ASKED, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
CORRELATION_ID = re.compile(r"[0-9a-f]{16,64}")

load_all_checks()
described = schemathesis.openapi.from_path(Path(__file__).parents[2] / "openapi.json")
described.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
described.config.phases.coverage.enabled = bool(ASKED)
CONFORMS = CHECKS.get_by_names(["not_a_server_error", "response_schema_conformance", "content_type_conformance"])


@pytest.fixture(scope="module")
def there(live: LiveApi, cloud_for_all: Cloud) -> Iterator[dict[str, int]]:
    """What there is to be asked for, by the word in its path."""
    project = Project.objects.get(name="default")
    server = cloud_for_all.running_server("fuzzed")
    made = {"project": project, "created": server.created}
    key = SSHKey.objects.create(**made, name="k", public_key="ssh-ed25519 AAAA", fingerprint="00")
    volume = Volume.objects.create(**made, name="v", size_gib=10)
    group = PlacementGroup.objects.create(**made, name="g", type="spread")
    image = Image.objects.create(**made, name="i", step="rest", next_at=None)  # operators publish it, and rename it
    yield {
        "servers": server.pk, "ssh_keys": key.pk, "volumes": volume.pk, "placement_groups": group.pk,
        "images": image.pk, "server_types": ServerType.objects.get(name="nano").pk,
    }  # fmt: skip
    Image.objects.filter(pk=image.pk).delete()


@pytest.fixture(scope="module")
def cloud_for_all(agent: Any) -> Iterator[Cloud]:
    """A cloud of this file alone, since nothing puts it in order between two requests.

    An operator may change and delete the catalogue: it is put back.
    """
    made = Cloud(agent)
    made.reset()
    catalogue = [*Image.objects.filter(project=None), *ServerType.objects.all()]
    yield made
    ServerType.objects.exclude(pk__in=[row.pk for row in catalogue if isinstance(row, ServerType)]).delete()
    for row in catalogue:
        row.save()
    made.reset()


@pytest.fixture(scope="module")
def token(cloud_for_all: Cloud) -> str:
    """One that may do everything, in a project that is not deleted: it has servers."""
    return Token.issue(Project.objects.get(name="default"), "schemathesis", operator=True)


@described.parametrize()
@EXAMPLES
def test_it_answers_as_described(case: Any, live: LiveApi, there: dict[str, int], token: str) -> None:
    kind = case.path.split("/")[2 if case.path.startswith("/v1") else 3]
    if kind in there and "id" in case.path_parameters and case.method != "DELETE":
        case.path_parameters["id"] = there[kind]
    case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
    response = case.call(base_url=f"http://127.0.0.1:{live.port}", timeout=20)
    case.validate_response(response, checks=CONFORMS)
    assert CORRELATION_ID.fullmatch(response.headers["x-correlation-id"][0])
    if response.status_code >= 400:
        assert response.status_code not in (401, 429), response.text
        assert set(response.json()["error"]) == {"code", "message", "details"}
