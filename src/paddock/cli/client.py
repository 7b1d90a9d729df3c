"""The command line's one door to HTTP: the API's address and token, its errors as ours, its pages as one list.

Every call either returns JSON or raises a PaddockError that says what was asked, what came back and what to do.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx

from paddock import __version__
from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NameTaken, PaddockError, Refused, Unavailable, from_wire

Json: TypeAlias = dict[str, Any]

PAGE = 50  # the most that the API gives at once
ANSWER = 30.0  # seconds until we give up on an answer
PATIENCE = 30.0  # seconds that somebody who waits for a server outlives an API that restarts
GUEST = 660.0  # seconds that a guest may be silent while it packs or unpacks
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_KINDS: dict[str, type[PaddockError]] = {
    "protected": Conflict, "resource_in_use": Conflict,
    "server_not_stopped": Conflict, "resource_locked": Conflict, "json_error": Invalid, "unsupported_error": Refused,
    "unauthorized": Refused, "token_readonly": Refused, "forbidden": Refused, "resource_limit_exceeded": Refused,
    "placement_error": Refused, "rate_limit_exceeded": Unavailable,
    "maintenance": Unavailable, "bad_gateway": Unavailable, "timeout": Unavailable,
}  # fmt: skip


class Api:
    """An API server, as one project's user sees it. `ca` is a file of certificates to trust besides the system's."""

    def __init__(self, endpoint: str, token: str, ca: Path | None = None) -> None:
        try:
            parts = urlsplit(endpoint)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{endpoint!r} is not the address of an API", hint="it looks like http://127.0.0.1:7480")
        self.endpoint = endpoint.rstrip("/").removesuffix("/v1")
        self.token, self.ca = token, ca
        self.tls = _trusting(ca) if parts.scheme == "https" else None
        self.local = parts.hostname in LOOPBACK
        self._http = httpx.Client(
            base_url=self.endpoint,
            headers={"Authorization": f"Bearer {token}", "User-Agent": f"paddock/{__version__}"},
            timeout=httpx.Timeout(ANSWER, connect=5),
            trust_env=not self.local,
            verify=self.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, patience: float = 0) -> Json:
        """GET JSON; for `patience` seconds an API that does not answer is asked again."""
        return _json(self._patiently(path, params or {}, patience))

    def text(self, path: str, params: Mapping[str, Any] | None = None) -> str:
        """GET plain text."""
        return self._patiently(path, params or {}, 0).text

    def post(self, path: str, body: Json | None = None, *, timeout: float = ANSWER) -> Json:
        """POST JSON; `timeout` in seconds."""
        with _naming(body):
            return _json(self._send("POST", path, json=body or {}, timeout=httpx.Timeout(timeout, connect=5)))

    def put(self, path: str, body: Json) -> Json:
        """PUT JSON."""
        with _naming(body):
            return _json(self._send("PUT", path, json=body))

    def upload(self, path: str, chunks: Iterator[bytes], size: int, params: Mapping[str, Any]) -> Json:
        """PUT `size` bytes as they come; `params` say which of the whole they are."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        timeout = httpx.Timeout(ANSWER, read=600, write=120, connect=5)
        return _json(self._send("PUT", path, content=chunks, headers=headers, params=params, timeout=timeout))

    def send_file(self, path: str, chunks: Iterator[bytes], size: int, params: Mapping[str, str]) -> Json:
        """PUT `size` bytes into a guest, which may take its time."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        timeout = httpx.Timeout(ANSWER, read=GUEST, write=GUEST, connect=5)
        return _json(self._send("PUT", path, content=chunks, headers=headers, params=params, timeout=timeout))

    @contextmanager
    def fetch_file(self, path: str, params: Mapping[str, str]) -> Iterator["FileAnswer"]:
        """GET a file out of a guest as it comes. Raises Unavailable, in between too, when it is cut off."""
        timeout = httpx.Timeout(ANSWER, read=GUEST, connect=5)
        with self._explained("GET", path), self._http.stream("GET", path, params=params, timeout=timeout) as response:
            if not response.is_success:
                response.read()
            _checked(response)
            yield FileAnswer(response)

    def lines(self, path: str, body: Json) -> Iterator[Json]:
        """POST, and the lines of JSON that are answered as they come. Who stops to read them hangs up."""
        timeout = httpx.Timeout(ANSWER, read=GUEST, connect=5)
        with self._explained("POST", path), self._http.stream("POST", path, json=body, timeout=timeout) as response:
            if not response.is_success:
                response.read()
            _checked(response)
            for line in response.iter_lines():
                yield json.loads(line)

    def delete(self, path: str) -> Json:
        """DELETE; an answer without a body is an empty object."""
        return _json(self._send("DELETE", path))

    def list(self, path: str, params: Mapping[str, Any] | None = None, *, patience: float = 0) -> list[Json]:
        """All pages of a list; the key of the list is the last part of `path`."""
        found: list[Json] = []
        page: int | None = 1
        while page:
            query = {**(params or {}), "page": page, "per_page": PAGE}
            answer = self.get(path, query, patience=patience)
            found += answer.get(path.rsplit("/", 1)[-1], [])
            page = (answer.get("meta") or {}).get("pagination", {}).get("next_page")
        return found

    def _patiently(self, path: str, params: Mapping[str, Any], patience: float) -> httpx.Response:
        deadline = clock.monotonic() + patience
        while True:
            try:
                return self._send("GET", path, params=params)
            except Unavailable:
                if clock.monotonic() >= deadline:
                    raise
                clock.sleep(0.5)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._explained(method, path):
            return _checked(self._http.request(method, path, **arguments))

    @contextmanager
    def _explained(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as e:
            if "CERTIFICATE_VERIFY_FAILED" in str(e):
                raise Refused(
                    f"{self.endpoint} has a certificate that is not trusted here: {_reason(e)}",
                    hint="copy tls/ca.crt from its state directory, and set PADDOCK_CA to where it is",
                ) from e
            raise Unavailable(
                f"the API at {self.endpoint} does not answer: {_reason(e)}",
                hint="`paddock up` starts it, `paddock status` shows what runs",
            ) from e
        except httpx.TimeoutException as e:
            raise Unavailable(f"the API at {self.endpoint} gave no answer to {method} {path} in time") from e
        except httpx.InvalidURL as e:
            raise Invalid(f"{self.endpoint} is not the address of an API: {e}") from e
        except httpx.TransportError as e:
            raise Unavailable(
                f"the connection to {self.endpoint} was cut during {method} {path}: {_reason(e)}",
                hint="" if method == "GET" else "it may have been done all the same: look before you ask again",
            ) from e


@contextmanager
def _naming(body: Json | None) -> Iterator[None]:
    """The API says that a name is taken, and not which."""
    try:
        yield
    except NameTaken as error:
        name = (body or {}).get("name") or (body or {}).get("x_name")
        if not name or str(name) in error.message:
            raise
        raise NameTaken(f"{error.message}: {name}", hint=error.hint, field=error.field) from error


class FileAnswer:
    """A file that is coming: what the guest says it is, and its bytes."""

    def __init__(self, response: httpx.Response) -> None:
        said = response.headers
        self.kind = said.get("x-file-kind", "file")
        self.size = int(said.get("x-file-size", "0"))
        self.mode = int(said.get("x-file-mode", "0644"), 8)
        self.chunks = response.iter_bytes()


def _trusting(ca: Path | None) -> ssl.SSLContext:
    """What verifies the server: the system's authorities, and that of this cloud. Raises Invalid."""
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(ca)
    except OSError as e:  # ssl.SSLError is one
        raise Invalid(f"the certificates in {ca} can't be used: {e}", hint="see PADDOCK_CA") from e
    return context


def read_token(path: Path) -> str:
    """The token in a file. Raises Unavailable or Refused, saying what to do."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError as e:
        raise Unavailable(f"there is no token at {path}", hint="`paddock up` makes one; or set PADDOCK_TOKEN") from e
    except (OSError, UnicodeDecodeError) as e:
        raise Refused(f"the token at {path} can't be read: {e}", hint="run as its owner, or set PADDOCK_TOKEN") from e


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    error = _error_of(response)
    if isinstance(error, dict) and error.get("code"):
        raise _ours(error)
    what = f"{response.request.method} {response.request.url} answered {response.status_code} {response.reason_phrase}"
    if response.status_code in (502, 503, 504):
        raise Unavailable(what)
    raise PaddockError(what, hint="is this the address of a Paddock API?")


def _error_of(response: httpx.Response) -> object:
    try:
        body = response.json()
    except ValueError:
        return None
    return body.get("error") if isinstance(body, dict) else None


def _ours(error: Json) -> PaddockError:
    code, details = str(error["code"]), error.get("details")
    details = details if isinstance(details, dict) else {}
    fields = [f for f in details.get("fields") or [] if isinstance(f, dict)]
    message = _with_fields(str(error.get("message") or code), fields)
    hint = str(details.get("hint") or "")
    field = str(fields[0].get("name", "")) if fields else ""
    if code == "unauthorized":
        hint = hint or "the token is not one of this cloud's: see PADDOCK_TOKEN, --state-dir"
    if kind := _KINDS.get(code):
        return kind(message, hint=hint, field=field)
    return from_wire({"code": code, "message": message, "hint": hint, "field": field})


def _with_fields(message: str, fields: list[Json]) -> str:
    """The message, followed by what each field complains of that it does not say itself."""
    if len(fields) > 1 and message.startswith("invalid input"):
        message = "invalid input"
    more = []
    for field in fields:
        said = [str(m) for m in field.get("messages") or [] if str(m) not in message]
        name = str(field.get("name", ""))
        if said:
            more.append(f"{name}: {', '.join(said)}" if name else ", ".join(said))
        elif name and name not in message and name.replace("_", " ") not in message:
            more.append(name)
    return f"{message} ({'; '.join(more)})" if more else message


def _json(response: httpx.Response) -> Json:
    if not response.content:
        return {}
    try:
        body = response.json()
    except ValueError as e:
        raise PaddockError(
            f"{response.request.method} {response.request.url} answered no JSON", hint="is this a Paddock API?"
        ) from e
    if not isinstance(body, dict):
        raise PaddockError(f"{response.request.url} answered no object", hint="is this a Paddock API?")
    return body


def _reason(error: Exception) -> str:
    return str(error).replace("[Errno 111] ", "").lower() or type(error).__name__
