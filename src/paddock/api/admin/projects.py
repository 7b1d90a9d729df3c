"""Projects (tenants), for operators: making and deleting them, their limits and their tokens."""

from typing import Annotated, Any

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import BaseModel, ConfigDict, Field

from paddock.api.errors import ApiError, uniqueness
from paddock.api.paging import MAX_ID, Meta, get, page
from paddock.api.v1.common import Body, Reply, Time
from paddock.api.x import limits as x_limits
from paddock.api.x import tokens
from paddock.cloud.models import Image, Project, Server, Token, Volume

router = Router(tags=["admin: projects"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
DEFAULT = "default"  # `paddock up` makes it, and the operator's own token is one of its
# What a project that is deleted must not have.
OWNED: dict[str, type[Any]] = {"server": Server, "volume": Volume, "image": Image}
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Limit = Annotated[int | None, Field(ge=0, lt=2**31)]


class SetLimits(BaseModel):
    """Limits of a project: those left out stay as they are, null is no limit. Memory in MiB, disks in GiB."""

    model_config = ConfigDict(strict=True, extra="forbid")

    servers: Limit = None
    cores: Limit = None
    memory_mib: Limit = None
    disk_gib: Limit = None
    volumes: Limit = None
    volume_gib: Limit = None
    snapshots: Limit = None


class LimitsReply(Reply):
    """Limits of a project; null is no limit."""

    servers: int | None
    cores: int | None
    memory_mib: int | None
    disk_gib: int | None
    volumes: int | None
    volume_gib: int | None
    snapshots: int | None


class ProjectReply(Reply):
    """A project."""

    id: int
    name: str
    created: Time
    limits: LimitsReply


class OneProject(Reply):
    project: ProjectReply


class ProjectUsage(Reply):
    """A project, and what it uses of its limits."""

    project: ProjectReply
    usage: x_limits.Limits


class ManyProjects(Reply):
    projects: list[ProjectReply]
    meta: Meta


class CreateProject(Body):
    name: Name
    limits: SetLimits = SetLimits()


class ChangeProject(Body):
    name: Name | None = None
    limits: SetLimits = SetLimits()


class CreateProjectToken(tokens.CreateToken):
    """A token of the project; an operator's may use /admin/v1 too."""

    operator: bool = False


def shown(project: Project) -> ProjectReply:
    """A project as it goes out."""
    limits = {name: getattr(project, f"limit_{name}") for name in LimitsReply.model_fields}
    return ProjectReply(id=project.pk, name=project.name, created=project.created, limits=LimitsReply(**limits))


@router.get("/projects", response=ManyProjects)
def list_projects(request: HttpRequest) -> ManyProjects:
    """All projects."""
    found, meta = page(request, Project.objects.all(), SORTABLE)
    return ManyProjects(projects=[shown(p) for p in found], meta=meta)


@router.post("/projects", response={201: OneProject})
def create_project(request: HttpRequest, body: CreateProject) -> Status[OneProject]:
    """Make a project. It has no token yet."""
    project = _saved(Project(name=body.name, **_columns(body.limits)))
    project.refresh_from_db()
    return Status(201, OneProject(project=shown(project)))


@router.get("/projects/{int:id}", response=ProjectUsage)
def show_project(request: HttpRequest, id: int) -> ProjectUsage:
    """One project, and what it uses."""
    project = _project(id)
    return ProjectUsage(project=shown(project), usage=x_limits.shown(project))


@router.put("/projects/{int:id}", response=OneProject)
def change_project(request: HttpRequest, id: int, body: ChangeProject) -> OneProject:
    """Rename a project or change its limits. What it has beyond a new limit stays; it only gets no more."""
    with transaction.atomic():
        project = _project(id, lock=True)
        if project.name == DEFAULT and body.name not in (None, DEFAULT):
            raise ApiError(422, "protected", f"project {DEFAULT} keeps its name: `paddock up` looks for it")
        project.name = body.name or project.name
        for column, value in _columns(body.limits).items():
            setattr(project, column, value)
        return OneProject(project=shown(_saved(project)))


@router.delete("/projects/{int:id}", response={204: None})
def delete_project(request: HttpRequest, id: int) -> HttpResponse:
    """Delete a project with its tokens and SSH keys. Refused while it has servers, volumes or images."""
    with transaction.atomic():
        project = _project(id, lock=True)  # whoever adds something to it waits, and finds it gone
        if project.name == DEFAULT:
            raise ApiError(423, "protected", f"project {DEFAULT} is the operator's own, and can't be deleted")
        counts = {kind: model.objects.filter(project=project).count() for kind, model in OWNED.items()}
        if has := ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if n):
            raise ApiError(422, "resource_in_use", f"project {project.name} still has {has}: delete these first")
        project.delete()
    return HttpResponse(status=204)


@router.get("/projects/{int:id}/tokens", response=tokens.ManyTokens)
def list_project_tokens(request: HttpRequest, id: int) -> tokens.ManyTokens:
    """A project's tokens, without their secrets."""
    return tokens.listed(request, Token.objects.filter(project=_project(id)))


@router.post("/projects/{int:id}/tokens", response={201: tokens.NewToken})
def create_project_token(request: HttpRequest, id: int, body: CreateProjectToken) -> Status[tokens.NewToken]:
    """Make a token of a project. Its secret is in this answer and nowhere else."""
    return tokens.new(_project(id), body, operator=body.operator)


@router.delete("/projects/{int:id}/tokens/{int:token_id}", response={204: None})
def revoke_project_token(request: HttpRequest, id: int, token_id: int) -> HttpResponse:
    """Revoke a token of a project."""
    get(Token.objects.filter(project=_project(id)), "token", token_id).delete()
    return HttpResponse(status=204)


def _project(id: int, *, lock: bool = False) -> Project:
    rows = Project.objects.select_for_update() if lock and 0 < id < MAX_ID else Project.objects.all()
    project: Project = get(rows, "project", id)
    return project


def _columns(limits: SetLimits) -> dict[str, int | None]:
    return {f"limit_{name}": getattr(limits, name) for name in limits.model_fields_set}


def _saved(project: Project) -> Project:
    try:
        with transaction.atomic():
            project.save()
    except IntegrityError as e:
        raise uniqueness("name") from e
    return project
