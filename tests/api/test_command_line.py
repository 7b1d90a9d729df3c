"""`paddock` on the real API: what points other tools here, projects, tokens, limits."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base import certificates
from paddock.cloud.models import Project, Token
from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.cli.conftest import Shell
from tests.cloud.harness import Cloud


@pytest.fixture
def paddock(live: LiveApi, cloud: Cloud, tmp_path: Path) -> Iterator[Shell]:
    """An operator's command line."""
    yield Shell(tmp_path, f"http://127.0.0.1:{live.port}", Caller(operator=True).token)
    Project.objects.filter(name__startswith="acme").delete()


def sourced(lines: str, **before: str) -> dict[str, str]:
    """The environment after a shell has read these lines."""
    script = f"{lines}\nenv -0"
    done = subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"], **before}, capture_output=True)
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if "=" in entry)


def test_env_names_both_endpoints(paddock: Shell) -> None:
    found = sourced(paddock.ok("env"))
    assert found["HCLOUD_ENDPOINT"] == found["HETZNER_ENDPOINT"] == f"{paddock.endpoint}/v1"
    assert found["HCLOUD_TOKEN"] == paddock.token
    assert "SSL_CERT_FILE" not in found
    after = sourced(paddock.ok("env", "--unset"), **found)
    assert not {"HCLOUD_ENDPOINT", "HETZNER_ENDPOINT", "HCLOUD_TOKEN"} & set(after)


def test_env_can_not_be_made_to_run_anything(paddock: Shell) -> None:
    token = "x'; touch pwned; '$(touch pwned)`touch pwned`"
    assert sourced(paddock.ok("env", PADDOCK_TOKEN=token))["HCLOUD_TOKEN"] == token
    assert not Path("pwned").exists()


def test_env_of_https_names_what_to_trust(paddock: Shell, tmp_path: Path) -> None:
    certificates.ensure(tmp_path / "tls", ["localhost"])
    ca = tmp_path / "tls" / "ca.crt"
    endpoint: dict[str, Any] = {"PADDOCK_ENDPOINT": "https://localhost:9", "PADDOCK_CA": str(ca)}
    found = sourced(paddock.ok("env", **endpoint))
    bundle = Path(found["SSL_CERT_FILE"])
    assert found["REQUESTS_CA_BUNDLE"] == str(bundle) == str(paddock.config / "ca-bundle.pem")
    assert ca.read_text() in bundle.read_text()
    assert bundle.read_text().count("BEGIN CERTIFICATE") > 10, "the system's authorities are trusted as before"
    trust: dict[str, Any] = {name: found[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    paddock.ok("env", **endpoint, **trust)
    assert bundle.read_text().count(ca.read_text().strip()) == 1, "asked twice, it is not in it twice"
    assert not set(trust) & set(sourced(paddock.ok("env", "--unset", **trust), **found))
    assert not set(trust) & set(sourced(paddock.ok("env", **trust), **found)), "plain HTTP needs none"
    own: dict[str, Any] = {"SSL_CERT_FILE": "/etc/mine.pem"}
    assert sourced(paddock.ok("env", "--unset", **own), **own) == sourced("", **own), "somebody's own stay"


def test_certificates_that_are_none(paddock: Shell, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    said = paddock.fails("ls", PADDOCK_ENDPOINT="https://localhost:9", PADDOCK_CA=str(tmp_path / "none.pem"))
    assert "none.pem can't be used" in said


def test_projects(paddock: Shell) -> None:
    assert "project acme is made" in paddock.ok("project", "create", "acme", "--servers", "3", "--cores", "none")
    assert "already used" in paddock.fails("project", "create", "acme")
    assert {"default", "acme"} <= set(paddock.ok("project", "list", "-q").split())
    assert paddock.ok("project", "limits", "acme", "--servers", "none", "--volume-gib", "100").endswith(
        "project acme: Servers -, Volumes GiB 100\n"
    )
    shown = json.loads(paddock.ok("project", "show", "acme", "-o", "json"))
    assert (shown["project"]["limits"]["servers"], shown["usage"]["volume_gib"]["limit"]) == (None, 100)
    assert "Volumes GiB:  0 of 100" in paddock.ok("project", "show", str(shown["project"]["id"]))
    assert "no limit" in paddock.fails("project", "limits", "acme", "--cores", "many")
    assert "say which limits" in paddock.fails("project", "limits", "acme")
    assert paddock.ok("project", "delete", "acme") == "project acme is deleted\n"
    assert "there is no project 'acme'" in paddock.fails("project", "show", "acme")


def test_tokens(paddock: Shell) -> None:
    paddock.ok("project", "create", "acme")
    done = paddock.run("token", "create", "--project", "acme", "--read-only", "-d", "for CI")
    secret = done.stdout.strip()
    assert (len(secret), secret in done.stderr) == (64, False)
    row = Token.objects.get(digest=Token.digest_of(secret))
    assert paddock.ok("ls", "-q", PADDOCK_TOKEN=secret) == ""
    assert "may only read" in paddock.fails("token", "create", PADDOCK_TOKEN=secret)
    listed = paddock.ok("token", "list", "--project", "acme")
    assert ("for CI" in listed, "ago" in listed, secret in listed) == (True, True, False)
    operator = json.loads(paddock.ok("token", "create", "--project", "acme", "--operator", "-o", "json"))
    assert operator["token"]["operator"] is True
    assert "token" in paddock.ok("token", "revoke", str(row.pk), "--project", "acme")
    assert "invalid" in paddock.fails("ls", PADDOCK_TOKEN=secret)
    assert "goes with --project" in paddock.fails("token", "create", "--operator", code=2)


def test_limits(paddock: Shell) -> None:
    paddock.ok("project", "create", "acme", "--servers", "3")
    token = paddock.ok("token", "create", "--project", "acme").strip()
    lines = paddock.ok("limits", PADDOCK_TOKEN=token).splitlines()
    expected = ["LIMIT OF USED OF", "Servers 0 3", "CPUs 0 -"]
    assert [" ".join(line.split()) for line in lines[:3]] == expected
    assert json.loads(paddock.ok("limits", "-o", "json", PADDOCK_TOKEN=token))["servers"] == {"limit": 3, "used": 0}
    assert "operator" in paddock.fails("project", "list", PADDOCK_TOKEN=token)
