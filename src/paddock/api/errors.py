"""Errors in the shape that API clients expect: {"error": {"code", "message", "details"}}."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, RequestDataTooBig
from django.db import IntegrityError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from psycopg.errors import ForeignKeyViolation
from psycopg_pool import PoolTimeout

from paddock.base.errors import LimitExceeded, PaddockError

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024  # bytes of JSON: user data of 32 KiB has room, however it is escaped
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
    "rate_limit_exceeded": 429,
    "unsupported_error": 422,
    "resource_in_use": 422,
    "protected": 423,
    "server_not_stopped": 422,
    "volume_already_attached": 422,
    "invalid_server_type": 422,
    "already_in_placement_group": 422,
    "resource_limit_exceeded": 403,
    "placement_error": 422,
    "no_space_left_in_location": 422,
}


class ApiError(Exception):
    """An error with its status, as it goes out."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details

    @property
    def body(self) -> dict[str, Any]:
        """What is answered."""
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}

    @property
    def headers(self) -> dict[str, str]:
        """What is answered beside it."""
        return {"Retry-After": "2"} if self.status == 503 else {}


def invalid(field: str, message: str) -> ApiError:
    """The error of a wrong field."""
    return from_fields({field: [message]})


def from_fields(fields: Mapping[str, list[str]]) -> ApiError:
    """The error of wrong fields, with what each complains of."""
    names = ", ".join(f"'{name}'" for name in fields)
    listed = [{"name": name, "messages": messages} for name, messages in fields.items()]
    first = next(iter(fields.values()))[0]
    return ApiError(422, "invalid_input", f"invalid input in field {names}: {first}", {"fields": listed})


def missing(what: str) -> ApiError:
    """The error of a thing that is not there, or is somebody else's."""
    return ApiError(404, "not_found", f"{what} not found")


def no_route() -> ApiError:
    """The error of a path that is none of ours."""
    return ApiError(404, "not_found", "api route not found")


def not_allowed(method: str | None) -> ApiError:
    """The error of a path that does not know this method."""
    return ApiError(405, "method_not_allowed", f"{method} is not allowed here")


def too_large() -> ApiError:
    """The error of a body over the limit."""
    return ApiError(413, "invalid_input", f"the request's body is larger than {MAX_BODY} bytes")


def uniqueness(field: str) -> ApiError:
    """The error of a name, or another field, that is taken."""
    message = f"{field} is already used"
    return ApiError(409, "uniqueness_error", message, {"fields": [{"name": field, "messages": [message]}]})


def unsupported(field: str, message: str) -> ApiError:
    """The error of a wish that this cloud can't fulfil."""
    details = {"fields": [{"name": field, "messages": [message]}]}
    return ApiError(422, "unsupported_error", f"field '{field}' is not supported: {message}", details)


def from_paddock(error: PaddockError) -> ApiError:
    """An error of ours as the API says it: fields where they are known, the hint beside them."""
    details: dict[str, Any] = {}
    if error.field:
        details["fields"] = [{"name": error.field, "messages": [error.message]}]
    if isinstance(error, LimitExceeded):
        details = {"limits": [{"name": error.field}]}
    if error.hint:
        details["hint"] = error.hint
    message = (
        f"invalid input in field '{error.field}': {error.message}"
        if error.code == "invalid_input" and error.field
        else error.message
    )
    return ApiError(STATUS.get(error.code, 500), error.code, message, details or None)


def from_pydantic(errors: Iterable[Mapping[str, Any]], outside: int = 0) -> ApiError:
    """What pydantic complains of; the first `outside` parts of each place are not the caller's own words."""
    fields: dict[str, list[str]] = {}
    for one in errors:
        name = ".".join(str(part) for part in one["loc"][outside:]) or "body"
        message = str(one["msg"]).removeprefix("Value error, ")
        fields.setdefault(name, []).append(message[:1].lower() + message[1:])
    return from_fields(fields)


def _from_validation(error: ValidationError) -> ApiError:
    """Ninja puts `body` and our argument's name before a field's, or `query` before a parameter's."""
    first = error.errors[0]["loc"][0]
    return from_pydantic(error.errors, 2 if first == "body" else 1)


def _from_http(error: HttpError) -> ApiError:
    """Ninja's own: a body that can't be read. Its cause says what is wrong with it."""
    if isinstance(error.__cause__, ApiError):
        return error.__cause__
    if error.status_code == 400:
        return ApiError(400, "json_error", f"the body is not JSON in UTF-8: {error.__cause__ or error}")
    return ApiError(error.status_code, "server_error", str(error))


def known(error: Exception) -> ApiError:
    """Any exception as what is answered for it."""
    match error:
        case ApiError():
            return error
        case PaddockError():
            return from_paddock(error)
        case ValidationError():
            return _from_validation(error)
        case AuthenticationError():
            return ApiError(401, "unauthorized", "token is required")
        case HttpError():
            return _from_http(error)
        case Http404():
            return no_route()
        case ObjectDoesNotExist():  # it went while we looked: another request, or its flow, was faster
            return missing("what was asked for")
        case IntegrityError() if isinstance(error.__cause__, ForeignKeyViolation):  # the same, seen at the commit
            return ApiError(409, "conflict", "something named here was deleted at the same time")
        case RequestDataTooBig():
            return too_large()
        case _:
            return unexpected(error)


def unexpected(error: Exception) -> ApiError:
    """What is said of an error that nobody expected: nothing of its inside."""
    if isinstance(error, OperationalError | PoolTimeout):
        log.warning("the database does not answer: %s", error)
        return ApiError(503, "unavailable", "the database does not answer at the moment; try again")
    log.error("unexpected error", exc_info=error)
    return ApiError(500, "server_error", "an error of ours; the log has it under this correlation id")


def reply(error: ApiError) -> JsonResponse:
    """Django's answer for an error."""
    return JsonResponse(error.body, status=error.status, headers=error.headers)


def install(api: NinjaAPI) -> None:
    """Have every error answered in our shape."""

    def answer(_: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
        return reply(known(error if isinstance(error, Exception) else error()))

    for kind in (ApiError, PaddockError, ValidationError, AuthenticationError, HttpError, Http404, Exception):
        api.add_exception_handler(kind, answer)
