"""The routes of /v1, and what each shows to whom: a row for each, written out, so that a new one is thought of."""

from typing import Any

_FAMILIES = {  # of which there are none: everybody sees the same nothing
    "networks": "add_route add_subnet change_ip_range change_protection delete_route delete_subnet",
    "firewalls": "apply_to_resources remove_from_resources set_rules",
    "floating_ips": "assign unassign change_dns_ptr change_protection",
    "primary_ips": "assign unassign change_dns_ptr change_protection",
    "load_balancers": "add_service add_target attach_to_network change_algorithm change_dns_ptr change_protection "
    "change_type delete_service detach_from_network disable_public_interface enable_public_interface remove_target "
    "update_service",
    "certificates": "retry",
    "zones": "change_primary_nameservers change_protection change_ttl import_zonefile",
    "storage_boxes": "change_protection change_type disable_snapshot_plan enable_snapshot_plan reset_password "
    "rollback_snapshot update_access_settings",
}
_RRSET = "/v1/zones/{id_or_name}/rrsets/{rr_name}/{rr_type}"
_BOX = "/v1/storage_boxes/{id}"


def _of_family(name: str, commands: str) -> set[str]:
    every = f"/v1/{name}"
    one = every + ("/{id_or_name}" if name == "zones" else "/{id}")
    return {
        f"GET {every}", f"POST {every}", f"GET {one}", f"PUT {one}", f"DELETE {one}", f"GET {every}/actions",
        f"GET {every}/actions/{{id}}", f"GET {one}/actions", f"GET {one}/actions/{{action_id}}",
        *(f"POST {one}/actions/{command}" for command in commands.split()),
    }  # fmt: skip


LATER = {
    "GET /v1/load_balancer_types", "GET /v1/load_balancer_types/{id}", "GET /v1/storage_box_types",
    "GET /v1/storage_box_types/{id}", "GET /v1/load_balancers/{id}/metrics", "GET /v1/zones/{id_or_name}/zonefile",
    "GET /v1/zones/{id_or_name}/rrsets", "POST /v1/zones/{id_or_name}/rrsets", f"GET {_RRSET}", f"PUT {_RRSET}",
    f"DELETE {_RRSET}", f"GET {_BOX}/folders",
    *(f"POST {_RRSET}/actions/{command}" for command in (
        "add_records", "change_protection", "change_ttl", "remove_records", "set_records", "update_records")),
    *(f"{method} {_BOX}/{part}" for part in ("snapshots", "subaccounts") for method in ("GET", "POST")),
    *(f"{method} {_BOX}/{part}" for part in ("snapshots/{snapshot_id}", "subaccounts/{subaccount_id}")
      for method in ("GET", "PUT", "DELETE")),
    *(f"POST {_BOX}/subaccounts/{{subaccount_id}}/actions/{command}" for command in (
        "change_home_directory", "reset_subaccount_password", "update_access_settings")),
    *(route for name, commands in _FAMILIES.items() for route in _of_family(name, commands)),
}  # fmt: skip
LATER_IDS = {"id_or_name": "example.com", "rr_name": "www", "rr_type": "A", "snapshot_id": 1, "subaccount_id": 1}

SHARED = LATER | {
    "GET /v1/server_types", "GET /v1/server_types/{id}", "GET /v1/locations", "GET /v1/locations/{id}",
    "GET /v1/datacenters", "GET /v1/datacenters/{id}", "GET /v1/pricing",
}  # fmt: skip

LISTS = {
    "GET /v1/servers": "server",
    "GET /v1/actions": "action",
    "GET /v1/servers/actions": "action",
    "GET /v1/images": "image",
    "GET /v1/images/actions": "image_action",
    "GET /v1/isos": "iso",
    "GET /v1/ssh_keys": "ssh_key",
    "GET /v1/volumes": "volume",
    "GET /v1/volumes/actions": "volume_action",
    "GET /v1/placement_groups": "placement_group",
}

_MINE = {"name": "mine", "server_type": "nano", "image": "tiny"}
CREATES: dict[str, list[dict[str, Any]]] = {
    "POST /v1/servers": [
        {**_MINE, "image": "{image}"},
        {**_MINE, "image": "their-image"},
        {**_MINE, "image": "{iso}"},
        {**_MINE, "ssh_keys": ["{ssh_key}"]},
        {**_MINE, "ssh_keys": ["their-key"]},
        {**_MINE, "volumes": ["int:{volume}"]},
        {**_MINE, "placement_group": "int:{placement_group}"},
    ],
    "POST /v1/ssh_keys": [],
    "POST /v1/volumes": [{"name": "mine", "size": 10, "server": "int:{server}"}],
    "POST /v1/placement_groups": [],
}

_POST = "POST /v1/servers/{id}/actions/"
OWNED: dict[str, tuple[str, Any]] = {
    "GET /v1/servers/{id}": ("server", None),
    "PUT /v1/servers/{id}": ("server", {"name": "mine"}),
    "DELETE /v1/servers/{id}": ("server", None),
    "GET /v1/servers/{id}/actions": ("server", None),
    "GET /v1/servers/{id}/actions/{action_id}": ("server", None),
    "GET /v1/servers/actions/{id}": ("action", None),
    "GET /v1/servers/{id}/metrics": ("server", None),
    f"{_POST}poweron": ("server", None),
    f"{_POST}poweroff": ("server", None),
    f"{_POST}shutdown": ("server", None),
    f"{_POST}reboot": ("server", None),
    f"{_POST}reset": ("server", None),
    f"{_POST}reset_password": ("server", None),
    f"{_POST}rebuild": ("server", {"image": "tiny"}),
    f"{_POST}change_type": ("server", {"server_type": "micro", "upgrade_disk": False}),
    f"{_POST}create_image": ("server", {}),
    f"{_POST}change_protection": ("server", {"delete": True}),
    f"{_POST}add_to_placement_group": ("server", {"placement_group": 1}),
    f"{_POST}remove_from_placement_group": ("server", None),
    f"{_POST}enable_rescue": ("server", {}),
    f"{_POST}disable_rescue": ("server", None),
    f"{_POST}attach_iso": ("server", {"iso": "any"}),
    f"{_POST}detach_iso": ("server", None),
    f"{_POST}request_console": ("server", None),
    f"{_POST}enable_backup": ("server", None),
    f"{_POST}disable_backup": ("server", None),
    f"{_POST}change_dns_ptr": ("server", {"ip": "192.0.2.1", "dns_ptr": "a.example.com"}),
    f"{_POST}attach_to_network": ("server", {"network": 1}),
    f"{_POST}detach_from_network": ("server", {"network": 1}),
    f"{_POST}change_alias_ips": ("server", {"network": 1, "alias_ips": []}),
    "GET /v1/actions/{id}": ("action", None),
    "GET /v1/images/{id}": ("image", None),
    "PUT /v1/images/{id}": ("image", {"description": "mine"}),
    "DELETE /v1/images/{id}": ("image", None),
    "GET /v1/images/actions/{id}": ("image_action", None),
    "GET /v1/images/{id}/actions": ("image", None),
    "GET /v1/images/{id}/actions/{action_id}": ("image", None),
    "POST /v1/images/{id}/actions/change_protection": ("image", {"delete": True}),
    "GET /v1/isos/{id}": ("iso", None),
    "GET /v1/ssh_keys/{id}": ("ssh_key", None),
    "PUT /v1/ssh_keys/{id}": ("ssh_key", {"name": "mine"}),
    "DELETE /v1/ssh_keys/{id}": ("ssh_key", None),
    "GET /v1/volumes/{id}": ("volume", None),
    "PUT /v1/volumes/{id}": ("volume", {"name": "mine"}),
    "DELETE /v1/volumes/{id}": ("volume", None),
    "GET /v1/volumes/actions/{id}": ("volume_action", None),
    "GET /v1/volumes/{id}/actions": ("volume", None),
    "GET /v1/volumes/{id}/actions/{action_id}": ("volume", None),
    "POST /v1/volumes/{id}/actions/attach": ("volume", {"server": 1}),
    "POST /v1/volumes/{id}/actions/detach": ("volume", None),
    "POST /v1/volumes/{id}/actions/resize": ("volume", {"size": 20}),
    "POST /v1/volumes/{id}/actions/change_protection": ("volume", {"delete": True}),
    "GET /v1/placement_groups/{id}": ("placement_group", None),
    "PUT /v1/placement_groups/{id}": ("placement_group", {"name": "mine"}),
    "DELETE /v1/placement_groups/{id}": ("placement_group", None),
}
QUERIES = {"GET /v1/servers/{id}/metrics": "?type=cpu&start=0&end=60"}
