"""Who asks: bearer tokens, each of one project."""

from datetime import timedelta
from typing import Any

from django.db.models.functions import Now
from django.http import HttpRequest
from ninja.security import HttpBearer

from paddock.api import rates
from paddock.api.errors import ApiError
from paddock.base import clock
from paddock.cloud.models import Project, Token

SAFE = ("GET", "HEAD", "OPTIONS")
USE_RESOLUTION = timedelta(minutes=1)  # how exactly a token's last use is kept: not a write per request


class Bearer(HttpBearer):
    """A token of a project; one that may only read is refused everything else."""

    operator = False

    def __call__(self, request: HttpRequest) -> Any:
        return self.authenticate(request, secret_of(request.headers.get("Authorization", "")))

    def authenticate(self, request: HttpRequest, token: str) -> Token:
        """The token's row. Raises ApiError 401 or 403."""
        return check_token(token, writes=request.method not in SAFE, operator=self.operator)


class Operator(Bearer):
    """A token that may use the operator's API."""

    operator = True


def secret_of(header: str) -> str:
    """The token in an Authorization header. Raises ApiError 401."""
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise ApiError(401, "unauthorized", "token is required")
    return secret.strip()


def check_token(secret: str, *, writes: bool, operator: bool = False) -> Token:
    """The row of a token that may do this, its request counted. Raises ApiError."""
    found = find_token(secret)
    rates.count(found.project_id)
    return check_rights(found, writes=writes, operator=operator)


def find_token(secret: str) -> Token:
    """The token's row, its use noted. Raises ApiError 401."""
    found = Token.objects.select_related("project").filter(digest=Token.digest_of(secret)).first()
    if found is None:
        raise ApiError(401, "unauthorized", "the token you have provided is invalid")
    if found.last_used is None or found.last_used < clock.now() - USE_RESOLUTION:
        Token.objects.filter(pk=found.pk).update(last_used=Now())
    return found


def check_rights(found: Token, *, writes: bool, operator: bool) -> Token:
    """The same token, if it may do this. Raises ApiError."""
    if operator and not found.operator:
        raise ApiError(403, "forbidden", "this needs an operator's token")
    if writes and found.read_only:
        raise ApiError(401, "token_readonly", "this token may only read")
    return found


def project(request: HttpRequest) -> Project:
    """The project that the request is for."""
    token: Token = request.auth  # type: ignore[attr-defined]  # set by ninja
    return token.project


def is_operator(request: HttpRequest) -> bool:
    """Whether whoever asks may also use the operator's API."""
    token: Token = request.auth  # type: ignore[attr-defined]  # set by ninja
    return token.operator


def correlation(request: HttpRequest) -> str:
    """The id that connects this request with our logs."""
    return str(getattr(request, "correlation_id", ""))
