"""Every route, under /v1, /x/v1 and /admin/v1."""

from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from ninja import NinjaAPI, Router, Schema

from paddock import __version__
from paddock.api.admin import nodes as admin_nodes
from paddock.api.admin import servers as admin_servers
from paddock.api.auth import Bearer, Operator
from paddock.api.errors import ApiError, install, reply
from paddock.api.v1 import actions, images, locations, server_types, servers, ssh_keys
from paddock.api.x import images as x_images
from paddock.api.x import servers as x_servers

api = NinjaAPI(title="Paddock", version=__version__, docs_url=None, openapi_url=None, urls_namespace="paddock")
install(api)
for part in (servers, actions, images, server_types, locations, ssh_keys):
    api.add_router("/v1", part.router, auth=Bearer())
for part in (x_servers, x_images):
    api.add_router("/x/v1", part.router, auth=Bearer())
for part in (admin_nodes, admin_servers):
    api.add_router("/admin/v1", part.router, auth=Operator())


class Version(Schema):
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
    return reply(ApiError(404, "not_found", "api route not found"))


urlpatterns = [path("", api.urls), re_path("", unknown)]
