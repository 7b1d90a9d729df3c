"""Writes that may be sent again: with the same Idempotency-Key, a write is done once and answered alike each time.

The key, what was done and what was answered are written in one transaction: an API process that dies leaves all or
nothing. Whoever sends the key meanwhile waits for that transaction, and gets its answer. Only answers of success are
kept (for a day): what was refused may be tried again. Kept answers hold no secrets: those are null in a repetition.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse

from paddock.api.auth import SAFE, check_rights, find_token, secret_of
from paddock.api.errors import ApiError, known, reply
from paddock.base.errors import PaddockError, Unavailable
from paddock.cloud.models import IdempotencyKey, Project

HEADER = "Idempotency-Key"
LONGEST = 255  # characters of a key
PATIENCE = 20  # seconds that a write waits for another one's locks
SECRETS = ("root_password", "password", "secret")  # fields of answers that are shown once
ANEW = "/actions/request_console"  # its answer is good for a minute: a new one each time changes nothing else

View = Callable[[HttpRequest], HttpResponse]


def once(request: HttpRequest, view: View) -> HttpResponse:
    """Answer the request; one with a key at most once, and later the same again."""
    key = request.headers.get(HEADER)
    if key is None or request.method in SAFE or request.path_info.endswith(ANEW):
        return view(request)
    try:
        project = _authorized(request)
        if project is None:
            return view(request)  # which says why it is refused
        return _once(request, view, project, _checked(key))
    except (ApiError, PaddockError, DatabaseError) as e:
        return reply(known(e))


def _authorized(request: HttpRequest) -> Project | None:
    """Whose request it is; None if a route would refuse it by its token."""
    try:
        token = find_token(secret_of(request.headers.get("Authorization", "")))
        return check_rights(token, writes=True, operator=request.path_info.startswith("/admin/")).project
    except ApiError:
        return None


def _checked(key: str) -> str:
    if not 0 < len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise ApiError(400, "invalid_input", f"{HEADER} must be 1 to {LONGEST} printable characters of ASCII")
    return key


def _once(request: HttpRequest, view: View, project: Project, key: str) -> HttpResponse:
    digest = _digest(request)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{PATIENCE}s"])
        row, before = _claim(project, key, digest)
        if before:
            return _again(row, digest)
        response = view(request)
        if 200 <= response.status_code < 300:
            row.status, row.body = response.status_code, _without_secrets(response.content)
            row.save(update_fields=["status", "body"])
        else:
            transaction.set_rollback(True)  # nothing was done, and the key is free again
        return response


def _claim(project: Project, key: str, digest: str) -> tuple[IdempotencyKey, bool]:
    """The key's row, and whether somebody had it before us, who is done. Waits for one who is not."""
    while True:
        row = IdempotencyKey(project=project, key=key, request=digest)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
            return row, False
        except OperationalError as e:
            raise Unavailable(f"the first request with this {HEADER} is still being answered", hint="try again") from e
        except IntegrityError:
            other = IdempotencyKey.objects.filter(project=project, key=key).first()
            if other is not None:
                return other, True
            if not Project.objects.filter(pk=project.pk).exists():
                raise ApiError(401, "unauthorized", "the token you have provided is invalid") from None


def _again(row: IdempotencyKey, digest: str) -> HttpResponse:
    """What was answered. Raises ApiError 409 when something else was asked."""
    if row.request != digest:
        message = f"this {HEADER} came with another request before: take a new one for each thing that you want done"
        raise ApiError(409, "conflict", message)
    again = HttpResponse(row.body, status=row.status, content_type="application/json; charset=utf-8")
    again["Idempotent-Replayed"] = "true"
    return again


def _digest(request: HttpRequest) -> str:
    """Of all that says what is wanted."""
    said = (request.method or "", request.path_info, request.META.get("QUERY_STRING", ""))
    return hashlib.sha256("\0".join(said).encode() + b"\0" + request.body).hexdigest()


def _without_secrets(content: bytes) -> str:
    return json.dumps(_blanked(json.loads(content))) if content else ""


def _blanked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: None if k in SECRETS else _blanked(v) for k, v in value.items()}
    return [_blanked(v) for v in value] if isinstance(value, list) else value
