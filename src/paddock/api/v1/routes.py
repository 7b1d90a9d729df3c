"""The routers of /v1, in the order in which they are asked."""

from paddock.api.v1 import (
    actions,
    images,
    isos,
    later,
    locations,
    placement_groups,
    pricing,
    server_actions,
    server_console,
    server_metrics,
    server_power,
    server_refusals,
    server_types,
    servers,
    ssh_keys,
    volumes,
)

ROUTERS = tuple(
    part.router
    for part in (
        servers,
        server_power,
        server_actions,
        server_console,
        server_refusals,
        server_metrics,
        actions,
        images,
        isos,
        server_types,
        locations,
        pricing,
        ssh_keys,
        volumes,
        placement_groups,
        later,
    )
)
