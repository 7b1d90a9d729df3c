"""A project's tokens: what opens it, shown once, revoked at any time."""

from typing import Annotated

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import project
from paddock.api.errors import ApiError
from paddock.api.paging import Meta, get, page
from paddock.api.v1.common import Body, Line, Reply, Time
from paddock.cloud.models import Project, Token

router = Router(tags=["x: tokens"])
SORTABLE = {"id": "id", "created": "created"}


class TokenReply(Reply):
    """A token, without its secret: that is shown once, when it is made."""

    id: int
    description: str
    read_only: bool
    operator: bool
    created: Time
    last_used: Time | None


class OneToken(Reply):
    token: TokenReply


class NewToken(Reply):
    """A new token. `secret` is never shown again: it is null where a write is repeated by its Idempotency-Key."""

    token: TokenReply
    secret: str | None


class ManyTokens(Reply):
    tokens: list[TokenReply]
    meta: Meta


class CreateToken(Body):
    description: Annotated[Line, Field(max_length=200)] = ""
    read_only: bool = False


def shown(token: Token) -> TokenReply:
    """A token as it goes out."""
    return TokenReply(
        id=token.pk,
        description=token.description,
        read_only=token.read_only,
        operator=token.operator,
        created=token.created,
        last_used=token.last_used,
    )


def new(owner: Project, body: CreateToken, *, operator: bool = False) -> Status[NewToken]:
    """Make a token of the project."""
    secret = Token.issue(owner, body.description, operator=operator, read_only=body.read_only)
    return Status(201, NewToken(token=shown(Token.objects.get(digest=Token.digest_of(secret))), secret=secret))


def listed(request: HttpRequest, rows: "QuerySet[Token]") -> ManyTokens:
    """A page of them."""
    found, meta = page(request, rows, SORTABLE)
    return ManyTokens(tokens=[shown(t) for t in found], meta=meta)


@router.get("/tokens", response=ManyTokens)
def list_tokens(request: HttpRequest) -> ManyTokens:
    """The project's tokens."""
    return listed(request, Token.objects.filter(project=project(request)))


@router.post("/tokens", response={201: NewToken})
def create_token(request: HttpRequest, body: CreateToken) -> Status[NewToken]:
    """Make a token that opens this project."""
    return new(project(request), body)


@router.get("/tokens/{int:id}", response=OneToken)
def show_token(request: HttpRequest, id: int) -> OneToken:
    """One token, and when it was last used (to the minute)."""
    return OneToken(token=shown(_token(request, id)))


@router.delete("/tokens/{int:id}", response={204: None})
def revoke_token(request: HttpRequest, id: int) -> HttpResponse:
    """Revoke a token: from now on it opens nothing. An operator's token is revoked by operators only."""
    token, asks = _token(request, id), request.auth  # type: ignore[attr-defined]  # set by ninja
    if token.operator and not asks.operator:
        raise ApiError(403, "forbidden", "this is an operator's token: only an operator may revoke it")
    token.delete()
    return HttpResponse(status=204)


def _token(request: HttpRequest, id: int) -> Token:
    token: Token = get(Token.objects.filter(project=project(request)), "token", id)
    return token
