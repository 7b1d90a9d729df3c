"""From what a person typed to the thing that is meant: names, ids, and servers by `node/number` too.

An id wins where a name consists of digits. What is not found is answered with what comes near.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from paddock.base.errors import Invalid, NotFound, Refused
from paddock.cli.client import Api, Json

FIRST = {
    "servers": ": `paddock launch IMAGE` makes one", "volumes": ": `paddock volume create` makes one",
    "placement_groups": ": `paddock placement-group create` makes one", "isos": ": `paddock iso import` brings one",
    "ssh_keys": ": `paddock ssh-key add` brings one",
}  # fmt: skip


def find(api: Api, collection: str, ref: str) -> Json:
    """One thing of `/v1/<collection>` by id or name. Raises NotFound with the names that come near."""
    kind = collection.rstrip("s")
    if ref.isascii() and ref.isdigit() and int(ref) < 2**53:
        try:
            found: Json = api.get(f"/v1/{collection}/{ref}")[kind]
        except NotFound:
            pass
        else:
            return found
    named = [thing for thing in api.list(f"/v1/{collection}", {"name": ref}) if thing.get("name") == ref]
    if not named and collection == "images":
        _refuse_known(api, ref)
    return named[0] if named else _nearly(api, collection, ref)


def server(api: Api, ref: str) -> Json:
    """A server by id, name, or node and number (n1/1000)."""
    if "/" in ref:
        for candidate in api.list("/v1/servers"):
            if candidate.get("x_name") == ref:
                return candidate
        raise NotFound(f"there is no server {ref!r}", hint="`paddock ls` shows them all")
    return find(api, "servers", ref)


def servers(api: Api, refs: Sequence[str], *, all: bool = False, group: str = "") -> list[Json]:
    """The servers meant, each once; all are found before anything is done to any.

    Raises Invalid when nothing or too much was said, NotFound for a name that is none.
    """
    if sum((bool(refs), all, bool(group))) != 1:
        raise Invalid("say which servers: names or ids, or --all, or --group G", hint="`paddock ls` shows them all")
    if refs:
        found = [_server_or_hint(api, ref) for ref in refs]
    else:
        found = [s for s in api.list("/v1/servers") if all or s.get("x_group") == group]
    if group and not found:
        raise NotFound(f"there is no server in group {group!r}", hint="`paddock ls --group G` shows a group's")
    return list({s["id"]: s for s in found}.values())


def _server_or_hint(api: Api, ref: str) -> Json:
    try:
        return server(api, ref)
    except NotFound as error:
        if any(s.get("x_group") == ref for s in api.list("/v1/servers")):
            raise NotFound(error.message, hint=f"{ref} is a group: --group {ref}") from error
        raise


def _refuse_known(api: Api, ref: str) -> None:
    """Raises Refused for an image that the catalogue knows and does not offer: its reason says more than its name."""
    for entry in api.get("/x/v1/catalogue")["catalogue"]:
        if entry["name"] == ref and entry["refused"]:
            raise Refused(f"image {ref!r} is refused: {entry['refused']}")


def _nearly(api: Api, collection: str, ref: str) -> Json:
    kind = collection.rstrip("s").replace("_", " ").replace("ssh", "SSH").replace("iso", "ISO")
    names = [str(thing["name"]) for thing in api.list(f"/v1/{collection}") if thing.get("name")]
    near = get_close_matches(ref, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"there are: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    else:
        hint = f"there is no {kind} at all yet{FIRST.get(collection, '')}"
    raise NotFound(f"there is no {kind} {ref!r}", hint=hint)
