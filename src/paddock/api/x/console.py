"""Console sessions: an address of a server's screen that opens once, within a minute, and the password for it.

Only a hash of the address's secret is kept. The password follows from the secret and this cloud's key, so that a copy
of the database opens nothing.
"""

import hashlib
import secrets
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from paddock.api.errors import ApiError
from paddock.base.errors import Conflict
from paddock.base.ids import UNMISTAKABLE
from paddock.cloud.models import ConsoleSession, Node, Server

VALID = timedelta(seconds=60)
PASSWORD_LENGTH = 8  # VNC authentication looks at no more
PATH = "/x/v1/console/"


def new_session(server: Server) -> tuple[str, str]:
    """A secret that opens the server's screen, and the VNC password that is asked for there."""
    secret = secrets.token_urlsafe(32)
    ConsoleSession.objects.create(server=server, digest=_digest(secret), expires=Now() + VALID)
    return secret, _password(secret)


def address(request: HttpRequest, secret: str) -> str:
    """The WebSocket that a secret opens: where the request came to, unless paddock.toml says what others call us."""
    chosen = settings.PADDOCK.api.public_url
    base = chosen or f"{request.scheme}://{request.get_host()}"
    return f"ws{base.removeprefix('http')}{PATH}{secret}"


def open_session(secret: str) -> tuple[Server, Node, str]:
    """Use up a session: its server, where that is, and its password. Raises ApiError 404 for one that is none, is over
    or was used."""
    with transaction.atomic():
        rows = ConsoleSession.objects.select_for_update(of=("self",)).select_related("server__node")
        session = rows.filter(digest=_digest(secret), expires__gt=Now()).first()
        if session is None:
            raise ApiError(404, "not_found", "this address is used or over: ask for a new console")
        session.delete()
    if session.server.node is None:
        raise Conflict(f"server {session.server.name} has no node yet")
    return session.server, session.server.node, _password(secret)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _password(secret: str) -> str:
    made = salted_hmac("paddock console password", secret, algorithm="sha256").digest()
    return "".join(UNMISTAKABLE[byte % len(UNMISTAKABLE)] for byte in made[:PASSWORD_LENGTH])
