"""`python -m paddock.api`: serve the API where paddock.toml says; by HTTPS unless only this machine reaches it."""

import logging
import os
import ssl
import sys
import threading
from urllib.parse import urlsplit

os.environ["PADDOCK_ROLE"] = "api"

import uvicorn

from paddock.base import certificates, log
from paddock.base.certificates import Pair
from paddock.base.errors import PaddockError
from paddock.base.settings import ApiSettings, StateDir, default_state_dir, load

logger = logging.getLogger(__name__)

KEEP_ALIVE = 75  # seconds: longer than clients pause between looks at an action, or they send into a closing connection
GRACE = 5  # seconds for requests in hand when it is told to stop
LOOK = 6 * 3600.0  # seconds between looks whether the certificate is to be renewed, or was replaced


def main() -> int:
    """Serve until SIGTERM."""
    log.setup("api")
    state = StateDir(default_state_dir())
    try:
        _serve(state, load(state.config).api)
    except PaddockError as e:
        logger.error("%s", e)
        return 1
    return 0


def _serve(state: StateDir, said: ApiSettings) -> None:
    config = uvicorn.Config(
        "paddock.api.app:application",
        host=said.host,
        port=said.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        ws="websockets-sansio",
        lifespan="off",
    )
    config.load()
    if said.tls:
        config.ssl = _pair(state, said).context()
        threading.Thread(target=_renew, args=(state, said, config.ssl), name="certificate", daemon=True).start()
    uvicorn.Server(config).run()


def _pair(state: StateDir, said: ApiSettings) -> Pair:
    """The operator's own certificate, or one of this cloud's authority."""
    if said.tls_cert and said.tls_key:
        return Pair(state.root / said.tls_cert, state.root / said.tls_key)
    public = urlsplit(said.public_url).hostname if said.public_url else None
    return certificates.ensure(state.tls, [*certificates.own_names(said.host), *([public] if public else [])])


def _renew(state: StateDir, said: ApiSettings, context: ssl.SSLContext) -> None:
    """Now and then: new connections are served by the certificate that there is then."""
    nobody = threading.Event()
    while not nobody.wait(LOOK):
        try:
            _pair(state, said).load_into(context)
        except (PaddockError, OSError) as e:
            logger.warning("the certificate could not be looked after; the one before is served on: %s", e)


if __name__ == "__main__":
    sys.exit(main())
