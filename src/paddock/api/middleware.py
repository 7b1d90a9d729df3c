"""What surrounds every request: a correlation id, forgiving slashes, and errors outside of routes in our shape."""

import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from paddock.api.errors import ApiError, reply, unexpected
from paddock.base.ids import new_correlation_id
from paddock.base.log import correlation_id


class Envelope:
    """Django middleware, the only one: there are no cookies, sessions or forms here."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.correlation_id = new_correlation_id()  # type: ignore[attr-defined]
        token = correlation_id.set(request.correlation_id)  # type: ignore[attr-defined]
        request.path_info = re.sub(r"/{2,}", "/", request.path_info).rstrip("/") or "/"
        try:
            response = self.get_response(request)
        finally:
            correlation_id.reset(token)
        return self._in_shape(request, response)

    def process_exception(self, _: HttpRequest, exception: Exception) -> HttpResponse:
        """What no route caught."""
        return reply(unexpected(exception))

    def _in_shape(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Django's own 404 and 405 are HTML; ours are not."""
        if not response.get("Content-Type", "").startswith(("application/json", "text/plain")) and response.content:
            if response.status_code == 404:
                response = reply(ApiError(404, "not_found", "api route not found"))
            elif response.status_code == 405:
                response = reply(ApiError(405, "method_not_allowed", f"{request.method} is not allowed here"))
        response["X-Correlation-Id"] = request.correlation_id  # type: ignore[attr-defined]
        return response
