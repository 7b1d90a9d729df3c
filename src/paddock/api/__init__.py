"""The HTTP API: /v1 (what other clouds' clients know), /x/v1 (what our tenants get besides), /admin/v1 (operators)."""
