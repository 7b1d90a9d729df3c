"""Errors in the shape that API clients expect: {"error": {"code", "message", "details"}}."""

import logging
from typing import Any

from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from psycopg_pool import PoolTimeout

from paddock.base.errors import PaddockError

log = logging.getLogger(__name__)

STATUS = {
    "invalid_input": 422,
    "not_found": 404,
    "conflict": 409,
    "uniqueness_error": 409,
    "locked": 423,
    "refused": 422,
    "disk_full": 507,
    "resource_unavailable": 412,
    "port_taken": 409,
    "unavailable": 503,
    "stale_epoch": 409,
    "command_failed": 502,
    "server_error": 500,
    "unsupported_error": 422,
    "resource_in_use": 422,
    "protected": 423,
}


class ApiError(Exception):
    """An error with its status, as it goes out."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details


def body(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"code": code, "message": message, "details": details}}


def reply(error: ApiError) -> JsonResponse:
    """The answer for an error."""
    response = JsonResponse(body(error.code, error.message, error.details), status=error.status)
    if error.status == 503:
        response["Retry-After"] = "2"
    return response


def from_paddock(error: PaddockError) -> ApiError:
    """An error of ours as the API says it: fields where they are known, the hint beside them."""
    details: dict[str, Any] = {}
    if error.field:
        details["fields"] = [{"name": error.field, "messages": [error.message]}]
    if error.hint:
        details["hint"] = error.hint
    message = (
        f"invalid input in field '{error.field}': {error.message}"
        if error.code == "invalid_input" and error.field
        else error.message
    )
    return ApiError(STATUS.get(error.code, 500), error.code, message, details or None)


def _from_validation(error: ValidationError) -> ApiError:
    fields: dict[str, list[str]] = {}
    for one in error.errors:
        place = [str(part) for part in one["loc"] if part not in ("body", "data", "query", "path")]
        fields.setdefault(".".join(place) or "body", []).append(str(one["msg"]))
    names = ", ".join(f"'{name}'" for name in fields)
    listed = [{"name": name, "messages": messages} for name, messages in fields.items()]
    first = next(iter(fields.values()))[0]
    return ApiError(422, "invalid_input", f"invalid input in field {names}: {first}", {"fields": listed})


def install(api: NinjaAPI) -> None:
    """Have every error answered in our shape."""

    @api.exception_handler(ApiError)
    def _(request: HttpRequest, error: ApiError) -> HttpResponse:
        return reply(error)

    @api.exception_handler(PaddockError)
    def _(request: HttpRequest, error: PaddockError) -> HttpResponse:
        return reply(from_paddock(error))

    @api.exception_handler(ValidationError)
    def _(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return reply(_from_validation(error))

    @api.exception_handler(AuthenticationError)
    def _(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return reply(ApiError(401, "unauthorized", "token is required"))

    @api.exception_handler(HttpError)
    def _(request: HttpRequest, error: HttpError) -> HttpResponse:
        code = "json_error" if error.status_code == 400 else "server_error"
        return reply(ApiError(error.status_code, code, str(error)))

    @api.exception_handler(Http404)
    def _(request: HttpRequest, error: Http404) -> HttpResponse:
        return reply(ApiError(404, "not_found", "api route not found"))

    @api.exception_handler(Exception)
    def _(request: HttpRequest, error: Exception) -> HttpResponse:
        return reply(unexpected(error))


def unexpected(error: Exception) -> ApiError:
    """What is said of an error that nobody expected: nothing of its inside."""
    if isinstance(error, OperationalError | PoolTimeout):
        log.warning("the database does not answer: %s", error)
        return ApiError(503, "unavailable", "the database does not answer at the moment; try again")
    log.error("unexpected error", exc_info=error)
    return ApiError(500, "server_error", "an error of ours; the log has it under this correlation id")
