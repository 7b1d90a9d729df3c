"""What is true: one file per resource."""

from paddock.cloud.models.action import Action
from paddock.cloud.models.base_configuration import BaseConfiguration
from paddock.cloud.models.console import ConsoleSession
from paddock.cloud.models.event import Event
from paddock.cloud.models.idempotency import IdempotencyKey
from paddock.cloud.models.image import Image, ImageCopy
from paddock.cloud.models.living import Living
from paddock.cloud.models.node import Node
from paddock.cloud.models.placement_group import PlacementGroup
from paddock.cloud.models.pool import Pool
from paddock.cloud.models.project import Project, Token
from paddock.cloud.models.server import Server
from paddock.cloud.models.server_type import ServerType
from paddock.cloud.models.ssh_key import SSHKey
from paddock.cloud.models.volume import Volume
from paddock.cloud.models.worker import Worker

__all__ = [
    "Action",
    "BaseConfiguration",
    "ConsoleSession",
    "Event",
    "IdempotencyKey",
    "Image",
    "ImageCopy",
    "Living",
    "Node",
    "PlacementGroup",
    "Pool",
    "Project",
    "SSHKey",
    "Server",
    "ServerType",
    "Token",
    "Volume",
    "Worker",
]
