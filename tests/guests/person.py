"""What a person does beside the API: the command line with the key in its place, and a look at the serial console."""

import shutil
import sys
from pathlib import Path

from paddock.base.run import Completed, run
from paddock.cli import keys
from tests.guests.stack import Stack


def paddock(cloud: Stack, home: Path, *words: str) -> Completed:
    """The command line of somebody who has the key. `home` is theirs."""
    config = home / "config/paddock"
    config.mkdir(parents=True, exist_ok=True)
    shutil.copy(cloud.key, config / keys.MADE)
    argv: list[str | Path] = [sys.executable, "-m", "paddock.cli.main", "--state-dir", cloud.state.root, *words]
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "SSH_AUTH_SOCK": ""}
    return run(argv, env=env, timeout=1800, check=False)


def console(cloud: Stack, server: int) -> str:
    """What a server wrote to its serial console."""
    answer = cloud.api.get(f"/x/v1/servers/{server}/console_log", params={"limit": 65536})
    return answer.text if answer.is_success else ""
