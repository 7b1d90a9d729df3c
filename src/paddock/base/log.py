"""One log format for all our processes: time, level, correlation id, message, to stderr."""

import contextvars
import logging
import sys
import time

correlation_id: contextvars.ContextVar[str] = contextvars.ContextVar("correlation_id", default="-")


class _Formatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        record.correlation_id = correlation_id.get()
        return super().format(record)


def setup(process: str, level: str = "INFO") -> None:
    """Log to stderr from now on; `process` (api, worker, agent n1) stands in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(f"[%(levelname)s] %(asctime)s {process} %(correlation_id)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "qemu.qmp", "procrastinate", "uvicorn"):
        logging.getLogger(noisy).setLevel("WARNING")
