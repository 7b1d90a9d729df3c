"""Every route, under /v1, /x/v1 and /admin/v1."""

from typing import Any, cast

from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from ninja import NinjaAPI, Router
from ninja.parser import Parser
from pydantic_core import from_json

from paddock import __version__
from paddock.api.admin import base as admin_base
from paddock.api.admin import catalogue as admin_catalogue
from paddock.api.admin import images as admin_images
from paddock.api.admin import nodes as admin_nodes
from paddock.api.admin import pools as admin_pools
from paddock.api.admin import projects as admin_projects
from paddock.api.admin import server_types as admin_server_types
from paddock.api.admin import servers as admin_servers
from paddock.api.admin import warm as admin_warm
from paddock.api.auth import Bearer, Operator
from paddock.api.errors import install, invalid, no_route, reply
from paddock.api.v1.common import Reply
from paddock.api.v1.routes import ROUTERS
from paddock.api.x import base as x_base
from paddock.api.x import catalogue as x_catalogue
from paddock.api.x import images as x_images
from paddock.api.x import isos as x_isos
from paddock.api.x import limits as x_limits
from paddock.api.x import names as x_names
from paddock.api.x import server_fork as x_server_fork
from paddock.api.x import server_images as x_server_images
from paddock.api.x import server_keys as x_server_keys
from paddock.api.x import server_sizes as x_server_sizes
from paddock.api.x import server_sleep as x_server_sleep
from paddock.api.x import servers as x_servers
from paddock.api.x import tokens as x_tokens


class StrictParser(Parser):
    """JSON in UTF-8, nothing else: no NaN, no lone surrogates, no zero characters, which PostgreSQL can't keep."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        body = from_json(request.body, allow_inf_nan=False)
        if b"\\u0000" in request.body and (field := _with_zero(body)) is not None:
            raise invalid(field or "body", "must not hold a zero character")
        return cast(dict[str, Any], body)


def _with_zero(value: Any) -> str | None:
    """The name of the field that holds a zero character; empty for the value itself."""
    if isinstance(value, str):
        return "" if "\0" in value else None
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if _with_zero(key) is not None or _with_zero(inner) is not None:
            return str(key).replace("\0", "")
    return None


api = NinjaAPI(
    title="Paddock",
    version=__version__,
    docs_url=None,
    openapi_url=None,
    urls_namespace="paddock",
    parser=StrictParser(),
)
install(api)
for router in ROUTERS:
    api.add_router("/v1", router, auth=Bearer())
for part in (
    x_servers,
    x_server_fork,
    x_server_sizes,
    x_server_sleep,
    x_server_images,
    x_server_keys,
    x_images,
    x_catalogue,
    x_names,
    x_tokens,
    x_limits,
    x_isos,
    x_base,
):
    api.add_router("/x/v1", part.router, auth=Bearer())
for part in (
    admin_nodes,
    admin_servers,
    admin_server_types,
    admin_images,
    admin_catalogue,
    admin_warm,
    admin_pools,
    admin_projects,
    admin_base,
):
    api.add_router("/admin/v1", part.router, auth=Operator())


class Version(Reply):
    """What answers here."""

    name: str = "paddock"
    version: str = __version__


public = Router(tags=["x: version"])


@public.get("/version", response=Version)
def show_version(request: HttpRequest) -> Version:
    """The version. Needs no token: it is how one sees that the API is up."""
    return Version()


api.add_router("/x/v1", public)


def unknown(request: HttpRequest) -> HttpResponse:
    """Answered before authentication, as API clients know it."""
    return reply(no_route())


urlpatterns = [path("", api.urls), re_path("", unknown)]
