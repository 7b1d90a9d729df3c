"""Django's settings, derived from the environment that the supervisor sets.

`PADDOCK_DATABASE_URL` says where PostgreSQL is, `PADDOCK_STATE_DIR` where the rest is, `PADDOCK_ROLE` (api, worker or
prepare) how connections are kept: the api has a pool, since its threads live for one request; a worker's threads live
long and keep theirs.
"""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from paddock.base.settings import DATABASE_ENV, StateDir, default_state_dir, load
from paddock.images import catalogue

STATE = StateDir(default_state_dir())
PADDOCK = load(STATE.config)
CATALOGUE = catalogue.load(STATE.catalogue)
PLACEMENT = PADDOCK.placement.strategy
ROLE = os.environ.get("PADDOCK_ROLE", "prepare")
TAG = secrets.token_hex(4)  # of this process, in the application name of its connections


def _secret_key(path: Path) -> str:
    """The key of the state directory; without one (linters, tests) a key for this process only."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(32)


def _database(url: str) -> dict[str, Any]:
    parts = conninfo_to_dict(url)
    options: dict[str, Any] = {"application_name": f"paddock {ROLE} {TAG}"}
    if ROLE == "api":
        options["pool"] = {"min_size": 1, "max_size": 8, "timeout": 3}
    else:  # steps say the same again and again: planned once per connection; lists are planned for what they ask
        options |= {"server_side_binding": True, "prepare_threshold": 5}
    known = ("dbname", "user", "password", "host", "port")
    options |= {key: value for key, value in parts.items() if key not in known}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "paddock"),
        "USER": parts.get("user", ""),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": parts.get("port", ""),
        "CONN_MAX_AGE": 0 if ROLE == "api" else None,
        "CONN_HEALTH_CHECKS": ROLE != "api",
        "OPTIONS": options,
    }


SECRET_KEY = _secret_key(STATE.secret_key)
DEBUG = False
ALLOWED_HOSTS = ["*"]  # every route authenticates by token; no cookies, so a forged Host gains nothing
INSTALLED_APPS = ["django.contrib.contenttypes", "procrastinate.contrib.django", "paddock.cloud"]
MIDDLEWARE = ["paddock.api.middleware.Envelope"]
ROOT_URLCONF = "paddock.api.urls"
DATABASES = {"default": _database(os.environ.get(DATABASE_ENV, "postgresql:///paddock"))}
USE_TZ = True
TIME_ZONE = "UTC"
LOGGING_CONFIG = None
logging.getLogger("django.request").setLevel("ERROR")  # a 404 is no news
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PROCRASTINATE_IMPORT_PATHS = ["paddock.cloud.flows.tasks"]
PROCRASTINATE_AUTODISCOVER_MODULE_NAME = "no_such_module"
