"""What surrounds every request: a correlation id, forgiving slashes, and errors outside of routes in our shape."""

import logging
import re
from collections.abc import Callable
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse

from paddock.api import rates
from paddock.api.errors import MAX_BODY, ApiError, known, no_route, not_allowed, reply, too_large
from paddock.api.idempotency import once
from paddock.base.ids import new_correlation_id
from paddock.base.log import correlation_id

log = logging.getLogger(__name__)
OURS = ("application/json", "text/plain")


class Envelope:
    """Django middleware, the only one: there are no cookies, sessions or forms here."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.correlation_id = new_correlation_id()  # type: ignore[attr-defined]
        token = correlation_id.set(request.correlation_id)  # type: ignore[attr-defined]
        said: dict[str, str] = {"X-Correlation-Id": request.correlation_id}  # type: ignore[attr-defined]
        counted = rates.headers.set(said)
        try:
            response = self._in_shape(request, self._answer(request))
            note(request.method or "", request.path_info, response.status_code)
        finally:
            rates.headers.reset(counted)
            correlation_id.reset(token)
        for name, value in said.items():
            response[name] = value
        return response

    def process_exception(self, _: HttpRequest, exception: Exception) -> HttpResponse:
        """What no route caught."""
        return reply(known(exception))

    def _answer(self, request: HttpRequest) -> HttpResponse:
        """HEAD is a GET of which the server sends only the headers; OPTIONS says what there is."""
        length = request.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY):
            return reply(too_large())
        request.path_info = one_slash(request.path_info)
        asked = request.method
        request.method = "GET" if asked == "HEAD" else asked
        response = once(request, self.get_response)
        request.method = asked
        if request.method == "OPTIONS" and response.status_code == 405:
            return HttpResponse(status=204, headers={"Allow": response["Allow"]})
        return response

    def _in_shape(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Django's own errors are HTML; ours are not."""
        status = response.status_code
        if status < 400 or response.get("Content-Type", "").startswith(OURS):
            return response
        shaped = reply({404: no_route(), 405: not_allowed(request.method)}.get(status) or _other(status))
        if "Allow" in response:
            shaped["Allow"] = response["Allow"]
        return shaped


def note(method: str, path: str, status: int) -> None:
    """Leave a line in the log of what changed something, or failed: under its correlation id it is found again."""
    if status >= 400 or method not in ("GET", "HEAD", "OPTIONS"):
        log.info("%s %s %d", method, quote(path[:200]), status)


def _other(status: int) -> ApiError:
    code = "server_error" if status >= 500 else "invalid_input"
    return ApiError(status, code, "the request can't be answered; the log may say more under this correlation id")


def one_slash(path: str) -> str:
    """The path as clients mean it whose endpoint ends in a slash."""
    return re.sub(r"/{2,}", "/", path).rstrip("/") or "/"
