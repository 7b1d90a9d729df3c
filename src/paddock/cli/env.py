"""`paddock env`: what points other tools at this cloud, as lines for a shell.

Both endpoints are always set: a client that knows only the one would send our token to a stranger's other one.
"""

import os
import shlex
import ssl
from pathlib import Path
from typing import Annotated

import typer

from paddock.base.errors import Refused
from paddock.base.files import write_private
from paddock.cli.client import Api
from paddock.cli.session import api_of, config_dir

ENDPOINTS = ("HCLOUD_ENDPOINT", "HETZNER_ENDPOINT")
TOKEN = "HCLOUD_TOKEN"  # noqa: S105  (the variable's name)
TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # of Go, OpenSSL and curl; of Python's requests
BUNDLE = "ca-bundle.pem"
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")  # where OpenSSL does not say


def env(
    ctx: typer.Context,
    unset: Annotated[bool, typer.Option("--unset", help="Lines that take it all back.")] = False,
) -> None:
    """Print what points hcloud, Terraform, Ansible and the like at this cloud.

    The lines hold your token. Where the API speaks HTTPS by a certificate of its own, they name
    a file that has that and the system's certificates.

    Examples:
      eval "$(paddock env)"
      eval "$(paddock env --unset)"
    """
    bundle = config_dir() / BUNDLE
    lines = _back(bundle) if unset else _there(api_of(ctx), bundle)
    print("\n".join(lines))


def _there(api: Api, bundle: Path) -> list[str]:
    said = {**dict.fromkeys(ENDPOINTS, f"{api.endpoint}/v1"), TOKEN: api.token}
    if api.tls and api.ca:
        _write_bundle(bundle, api.ca)
        said |= dict.fromkeys(TRUST, str(bundle))
    return [
        *(f"unset {name}" for name in _ours(bundle) if name not in said),
        *(f"export {name}={shlex.quote(value)}" for name, value in said.items()),
        '# for this shell: eval "$(paddock env)"',
    ]


def _back(bundle: Path) -> list[str]:
    return [f"unset {name}" for name in (TOKEN, *ENDPOINTS, *_ours(bundle))]


def _ours(bundle: Path) -> list[str]:
    """Those that name our file: somebody's own certificates stay theirs."""
    return [name for name in TRUST if os.environ.get(name) == str(bundle)]


def _write_bundle(bundle: Path, ca: Path) -> None:
    """What was trusted before, and this cloud's authority. Raises Refused."""
    chosen = os.environ.get("SSL_CERT_FILE", "")
    known = ssl.get_default_verify_paths()
    before = [Path(p) for p in (chosen, known.openssl_cafile, SYSTEM) if p and Path(p) != bundle]
    try:
        trusted = next((p.read_text(encoding="utf-8") for p in before if p.is_file()), "")
        write_private(bundle, f"{trusted.rstrip()}\n{ca.read_text(encoding='utf-8')}".lstrip())
    except (OSError, UnicodeDecodeError) as e:
        raise Refused(f"the certificates to trust can't be put together in {bundle}: {e}") from e
