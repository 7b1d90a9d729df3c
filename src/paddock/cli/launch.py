"""`paddock launch`: from nothing but an image to a server one can log in to, with every step shown on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from paddock.base.errors import Invalid, NameTaken, NotFound, PaddockError, Unavailable
from paddock.cli import follow, keys, lookup, names, progress, server, server_set, wizard
from paddock.cli.amounts import gigabytes_of
from paddock.cli.client import Api, Json
from paddock.cli.complete import names_of
from paddock.cli.fail import report
from paddock.cli.given import text_of
from paddock.cli.output import Format, Output, Quiet, duration, show_json, stderr, stdout
from paddock.cli.session import api_of
from paddock.cli.state import state_of

BEGAN = {"warm": ", from a warm image", "pool": ", from the pool"}  # after its readiness
TRIES = 5  # names of our own making that may turn out to be taken
READY = 600.0  # seconds; the control plane watches readiness for as long

ImageName = Annotated[
    str,
    typer.Argument(help="Name or id; asked for on a terminal.", show_default=False, autocompletion=names_of("images")),
]
TypeName = Annotated[
    str,
    typer.Option(
        "-t", "--type", help="Server type; else the smallest that fits.", autocompletion=names_of("server_types")
    ),
]
BootBy = typer.Option(help="What boots it; else as its image says.", show_default=False)
Firmware = Annotated[Literal["bios", "uefi"] | None, BootBy]


@dataclass(frozen=True)
class Order:
    """What is to be made, one or several alike; names are chosen later."""

    image: Json
    server_type: Json
    ssh_keys: tuple[int, ...] = ()
    name: str = ""
    count: int = 1
    several: bool = False
    user_data: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    group: str = ""
    role: str = ""
    restart: str = "no"
    location: str = ""
    volumes: tuple[int, ...] = ()
    automount: bool = False
    placement_group: int = 0
    start: bool = True
    base: bool = True
    warm: bool = True
    firmware: str = ""
    iso: str = ""
    node: str = ""
    description: str = ""
    kernel_args: str = ""
    autostart: Json = field(default_factory=dict)

    def body(self, name: str) -> Json:
        """The request that creates one of them."""
        wanted: Json = {
            "name": name, "server_type": self.server_type["name"], "image": self.image.get("id", ""),
            "ssh_keys": list(self.ssh_keys), "labels": dict(self.labels), "start_after_create": self.start,
            "x_restart": self.restart, "user_data": self.user_data, "x_group": self.group, "x_role": self.role,
            "location": self.location, "placement_group": self.placement_group or "",
            "x_firmware": self.firmware, "x_iso": self.iso, "x_node": self.node, "x_description": self.description,
            "x_kernel_args": self.kernel_args, "x_autostart": self.autostart or "",
        }  # fmt: skip
        if self.volumes:
            wanted |= {"volumes": list(self.volumes), "automount": self.automount}
        if not self.base:
            wanted["x_base_config"] = False
        if not self.warm:
            wanted["x_warm"] = False
        return {k: v for k, v in wanted.items() if v != ""}


def register(app: typer.Typer) -> None:
    """Add the command, and its long form."""
    server.app.command("create")(launch)
    app.command("launch", rich_help_panel=server.PANEL)(launch)


def launch(
    ctx: typer.Context,
    image: ImageName = "",
    name: Annotated[str, typer.Option("-n", "--name", help="Else one is made up.", show_default=False)] = "",
    type: TypeName = "",
    cpus: Annotated[int, typer.Option(min=0, help="At least so many CPUs.", show_default=False)] = 0,
    memory: Annotated[str, typer.Option(help="At least so much: 2G, 512M.", show_default=False)] = "",
    disk: Annotated[str, typer.Option(help="At least so much: 20G.", show_default=False)] = "",
    count: Annotated[int | None, typer.Option("-c", "--count", min=1, max=1000, help="Several alike.")] = None,
    ssh_key: Annotated[list[str] | None, typer.Option(help="Name, id or .pub file; else your own.")] = None,
    no_ssh_key: Annotated[bool, typer.Option("--no-ssh-key", help="None: a root password is shown.")] = False,
    user_data: Annotated[str, typer.Option(help="File with cloud-init user data, - for stdin.")] = "",
    label: Annotated[list[str] | None, typer.Option("-l", "--label", help="key=value, repeatable.")] = None,
    group: Annotated[str, typer.Option("-g", "--group", help="To start and stop servers together.")] = "",
    role: Annotated[str, typer.Option(help="What it does in its group: web, sql.")] = "",
    description: server_set.Description = None,
    autostart: server_set.Autostart = None,
    order: server_set.Order = None,
    delay: server_set.Delay = None,
    restart: server_set.Restart = None,
    kernel_args: server_set.KernelArgs = None,
    location: Annotated[str, typer.Option(help="Where.", show_default=False)] = "",
    node: Annotated[str, typer.Option(help="On this node; for operators.", show_default=False)] = "",
    volume: Annotated[list[str] | None, typer.Option(help="Attach this one: name or id.")] = None,
    automount: Annotated[bool, typer.Option("--automount", help="Mount the volumes in it.")] = False,
    placement_group: Annotated[str, typer.Option(help="Not on a node with others of it.", show_default=False)] = "",
    from_file: Annotated[str, typer.Option("-f", "--from-file", help="Lines of image:count:group:role.")] = "",
    iso: Annotated[str, typer.Option(help="A CD in its drive; without IMAGE, onto an empty disk.")] = "",
    firmware: Firmware = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Without the cloud's base configuration.")] = False,
    no_warm: Annotated[bool, typer.Option("--no-warm", help="Boot it, even if a warm image is there.")] = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Create it, but leave it off.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when it is accepted.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until ready.")] = READY,
    output: Output = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Create a server, start it and wait until you can log in.

    Name, type and SSH key are chosen for you. Without an image, on a terminal, it asks for all that you did not say.

    Examples:
      paddock launch debian-12
      paddock launch debian-12 --name web --type small --label env=prod
      paddock launch tiny --count 5 --group pf1 --role web
      paddock launch debian-12 --name db --autostart --order 1 --delay 30
      paddock launch --iso debian-netinst --disk 20G --name template
      paddock launch --from-file set.txt
    """
    given, api = locals(), api_of(ctx)
    if from_file and (image or name or count):
        raise typer.BadParameter("--from-file says image, count and group itself: give no IMAGE, --name or --count")
    said = wizard.Wish(image, name, location, node, type, *_size(cpus, memory, disk), several=count is not None)
    if not (image or from_file or iso):
        said = wizard.asked(api, said)
    orders = _orders(api, said, given)
    until = follow.Until.ENDED if no_start or (iso and not image) else follow.Until.READY
    _make(api, orders, until, wait=not no_wait, timeout=timeout, output=output, quiet=quiet)


def _orders(api: Api, said: wizard.Wish, given: Json) -> list[Order]:
    """What is to be made: `said`, and all other options as they were given."""
    group = given["placement_group"]
    common = Order(
        image={}, server_type={}, name=said.name, several=said.several, location=said.location, node=said.node,
        count=given["count"] or 1, user_data=text_of(given["user_data"], "user_data"),
        group=given["group"], role=given["role"],
        restart=given["restart"] or "no", description=given["description"] or "", start=not given["no_start"],
        autostart=server_set.turn(given["autostart"], given["order"], given["delay"]) or {},
        labels=tuple(label_of(text) for text in given["label"] or ()), kernel_args=given["kernel_args"] or "",
        base=not given["no_base"], firmware=given["firmware"] or "", automount=given["automount"],
        warm=not given["no_warm"],
        volumes=tuple(int(lookup.find(api, "volumes", ref)["id"]) for ref in given["volume"] or ()),
        iso=_iso(api, given["iso"]),
        placement_group=int(lookup.find(api, "placement_groups", group)["id"]) if group else 0,
    )  # fmt: skip
    parts = _lines(given["from_file"], common) if given["from_file"] else [(said.image, common)]
    orders = [_complete(api, ref, order, said.type, said.size) for ref, order in parts]
    key_ids = () if given["no_ssh_key"] else tuple(keys.chosen(api, given["ssh_key"] or []))
    return [replace(order, ssh_keys=key_ids) for order in orders]


def _make(
    api: Api, orders: Sequence[Order], until: follow.Until, *, wait: bool, timeout: float, output: Format, quiet: bool
) -> None:
    jobs: list[follow.Job] = []
    answers: list[Json] = []
    failed = False
    try:
        for order, name in _named(api, orders):
            try:
                answer = _create(api, order, name)
            except PaddockError as error:
                report(error)
                failed = True
                if isinstance(error, Unavailable):
                    break
                continue
            answers.append(answer)
            made = answer["server"]
            jobs.append(follow.Job(str(made["name"]), answer["action"], made, until=until))
        if wait and jobs:
            follow.follow(api, jobs, progress.view(_title(orders, jobs)), timeout)
    except KeyboardInterrupt:
        _interrupted(jobs)
        raise typer.Exit(130) from None
    _report(jobs)
    if quiet:
        print("\n".join(job.label for job in jobs))
    elif output is Format.JSON:
        _show_json(jobs, answers, several=len(orders) > 1 or orders[0].several)
    else:
        for job, answer in zip(jobs, answers, strict=True):
            _tell(job, answer, wait)
    if failed or any(job.problem for job in jobs):
        raise typer.Exit(1)


def _create(api: Api, order: Order, name: str) -> Json:
    """Ask for one; a name of our own making that was taken meanwhile is replaced."""
    for _ in range(TRIES):
        try:
            return api.post("/v1/servers", order.body(name))
        except NameTaken as error:
            if order.name and not order.several:
                raise NameTaken(error.message, hint=f"choose another --name, or: paddock rm {name}") from error
            name = _names(replace(order, count=1), {name})[0]
    raise NameTaken("no free name was found", field="name", hint="choose one with --name")


def _named(api: Api, orders: Sequence[Order]) -> list[tuple[Order, str]]:
    taken = {str(s["name"]).lower() for s in api.list("/v1/servers")}
    found: list[tuple[Order, str]] = []
    for order in orders:
        for name in _names(order, taken):
            taken.add(name)
            found.append((order, name))
    return found


def _names(order: Order, taken: set[str]) -> list[str]:
    if order.name and not order.several:
        return [order.name]
    if order.name:
        return names.numbered(order.name, order.count, taken)
    chosen: list[str] = []
    for _ in range(order.count):
        chosen.append(names.fresh(str(order.image.get("name") or "server"), taken | set(chosen)))
    return chosen


def _complete(api: Api, ref: str, order: Order, type: str, wanted: tuple[int, float, float]) -> Order:
    image = lookup.find(api, "images", ref) if ref or not order.iso else {}
    return replace(order, image=image, server_type=_server_type(api, type, image, wanted))


def order_for(api: Api, image: str, cpus: int, memory: float) -> Order:
    """One server that is left off, of the smallest type with so many CPUs and GB of memory, with this user's key."""
    order = _complete(api, image, Order(image={}, server_type={}, start=False), "", (cpus, memory, 0.0))
    return replace(order, ssh_keys=tuple(keys.chosen(api, [])))


def _server_type(api: Api, ref: str, image: Json, wanted: tuple[int, float, float]) -> Json:
    """The type asked for, else the first by id that holds the image and what was asked for."""
    cores, memory, disk = wanted
    if ref and any(wanted):
        raise Invalid("give --type, or --cpus, --memory and --disk, not both", field="server_type")
    if ref:
        return lookup.find(api, "server_types", ref)
    disk = max(disk, float(image.get("disk_size") or 0))
    types = sorted(api.list("/v1/server_types"), key=lambda t: int(t["id"]))
    for candidate in types:
        if candidate["cores"] >= cores and candidate["memory"] >= memory and candidate["disk"] >= disk:
            return candidate
    asked = ((cores, "CPUs"), (memory, "GB memory"), (disk, "GB disk"))
    said = " and ".join(f"{amount:g} {what}" for amount, what in asked if amount)
    raise Invalid(f"no server type has {said}", hint="`paddock type list` shows them")


def _lines(path: str, common: Order) -> list[tuple[str, Order]]:
    """The file's sets, one a line: image:count:group:role; all but the image may be empty."""
    orders = []
    for number, line in enumerate(text_of(path, "from_file").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        image, count, group, role, *more = [*(part.strip() for part in text.split(":")), "", "", ""]
        if not image or any(more) or not (count or "1").isdigit() or not 1 <= int(count or 1) <= 1000:
            raise Invalid(f"{path}, line {number}: {text!r} is not image:count:group:role", field="from_file")
        orders.append((image, replace(
            common, count=int(count or 1), several=True, group=group or common.group, role=role or common.role,
        )))  # fmt: skip
    if not orders:
        raise Invalid(f"{path} names no image", field="from_file", hint="a line looks like debian-12:3:pf1:web")
    return orders


def _iso(api: Api, ref: str) -> str:
    """The ISO, which must be in the cloud; empty if none is wanted. Raises NotFound."""
    try:
        return ref and str(lookup.find(api, "isos", ref)["name"])
    except NotFound as error:
        if Path(ref).is_file():
            hint = f"that is a file: `paddock iso import {ref}` brings it, and says what it is called"
            raise NotFound(error.message, hint=hint) from error
        raise


def label_of(text: str) -> tuple[str, str]:
    """key=value. Raises Invalid for anything else."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Invalid(f"--label {text!r} is not key=value", field="labels")
    return key, value


def _size(cpus: int, memory: str, disk: str) -> tuple[int, float, float]:
    return cpus, _gigabytes(memory, "memory"), _gigabytes(disk, "disk")


def _gigabytes(text: str, field: str) -> float:
    amount = gigabytes_of(text) if text else 0.0
    if amount is None:
        raise Invalid(f"--{field} {text!r} is no amount: say 2G or 512M", field=field)
    return amount


def _origin(order: Order) -> str:
    return str(order.image.get("name") or order.image.get("description") or f"ISO {order.iso}")


def _title(orders: Sequence[Order], jobs: Sequence[follow.Job]) -> str:
    images = ", ".join(dict.fromkeys(_origin(order) for order in orders))
    what = jobs[0].label if len(jobs) == 1 else f"{len(jobs)} servers"
    return f"Launching {what} from {images}"


def _interrupted(jobs: Sequence[follow.Job]) -> None:
    console = stderr()
    if not jobs:
        console.print("stopped before anything was known to be created; `paddock ls` shows what is there")
        return
    listed = " ".join(job.label for job in jobs)
    console.print(f"stopped waiting; creation goes on: {listed}")
    console.print(f"look:    paddock server show {jobs[0].label}")
    console.print(f"delete:  paddock rm {listed}")


def _report(jobs: Sequence[follow.Job]) -> None:
    for job in jobs:
        if job.problem:
            report(PaddockError(f"{job.label}: {job.problem}", hint=job.hint or _look_closer(job)))


def _show_json(jobs: Sequence[follow.Job], answers: Sequence[Json], *, several: bool) -> None:
    """The servers; one alone is no list, unless a number was asked for."""
    shown = [_with_password(job, answer) for job, answer in zip(jobs, answers, strict=True)]
    if shown or several:
        show_json(shown if several else shown[0])


def _look_closer(job: follow.Job) -> str:
    """Where more is to be seen of what failed; nowhere, if it is gone."""
    if job.thing is None:
        return ""
    name = job.label
    return f"`paddock server timeline {name}` shows how far it came, `paddock server log {name}` what it printed"


def _with_password(job: follow.Job, answer: Json) -> Json:
    made = dict(job.thing or answer["server"])
    return {**made, "root_password": answer["root_password"]} if answer.get("root_password") else made


def _tell(job: follow.Job, answer: Json, wait: bool) -> None:
    """The last words about one server: what it is now, and how to go on."""
    thing = job.thing or answer["server"]
    console = stdout()
    label = f"{job.label} ({thing['x_name']})" if thing.get("x_name") else job.label
    if answer.get("root_password"):
        console.print(f"root password of {job.label}, shown only now: {answer['root_password']}")
    if job.problem:
        return
    if not wait:
        console.print(f"{label} is being created; look with: paddock server show {job.label}")
    elif job.until is follow.Until.ENDED and state_of(thing) != "off":
        console.print(f"{label} boots the CD; at its serial console: paddock console {job.label}")
        console.print(f"when it is installed: paddock server detach-iso {job.label}; paddock image check {job.label}")
    elif job.until is follow.Until.ENDED:
        console.print(f"{label} is created and off; start it with: paddock start {job.label}")
    else:
        warm = BEGAN.get(thing.get("x_began") or "", "")
        console.print(f"{label} is {ready_by(job.readiness)}{warm}")
        console.print(f"log in:  paddock ssh {job.label}")
        if ssh := thing.get("x_ssh"):
            console.print(f"    or:  ssh -p {ssh['port']} {ssh['user']}@{ssh['host']}")


def ready_by(readiness: Json) -> str:
    """ready by ssh+agent after 14 s"""
    by = "+".join(map(str, readiness.get("by") or []))
    after = readiness.get("after_seconds")
    return f"ready{f' by {by}' if by else ''}{f' after {duration(after)}' if after is not None else ''}"
