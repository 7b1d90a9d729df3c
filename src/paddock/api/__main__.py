"""`python -m paddock.api`: serve the API where paddock.toml says."""

import os

os.environ["PADDOCK_ROLE"] = "api"

import uvicorn

from paddock.base import log
from paddock.base.settings import StateDir, default_state_dir, load

GRACE = 5  # seconds for requests in hand when it is told to stop


def main() -> None:
    """Serve until SIGTERM."""
    log.setup("api")
    said = load(StateDir(default_state_dir()).config).api
    uvicorn.run(
        "paddock.api.app:application",
        host=said.host,
        port=said.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        ws="websockets-sansio",
        lifespan="off",
    )


if __name__ == "__main__":
    main()
