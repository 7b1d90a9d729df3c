"""`python -m paddock.service.plan CONFIG`: what paddock.toml asks for, as JSON, checked.

A process of its own, that the supervisor reads: pydantic and psycopg would double the size of the one that stays.
"""

import json
import sys
from pathlib import Path

import psycopg

from paddock.base.errors import PaddockError, Refused, Unavailable, to_wire
from paddock.base.settings import load

PATIENCE = 10  # seconds for an external database to answer
OLDEST = 130000  # PostgreSQL 13


def main() -> int:
    """Print the settings, or the error as JSON with exit code 1."""
    try:
        settings = load(Path(sys.argv[1]))
        if settings.database.url:
            check_database(settings.database.url)
    except PaddockError as e:
        print(json.dumps(to_wire(e)))
        return 1
    print(settings.model_dump_json())
    return 0


def check_database(url: str) -> None:
    """That PostgreSQL answers there and lets us make tables. Raises Unavailable or Refused; the password is not in
    their words."""
    try:
        with psycopg.connect(url, connect_timeout=PATIENCE) as connection:
            version = connection.info.server_version
            row = connection.execute("SELECT has_schema_privilege(current_schema(), 'CREATE'), current_user").fetchone()
    except psycopg.OperationalError as e:
        said = " ".join(str(e).split())
        raise Unavailable(
            f"the database of paddock.toml does not answer: {said}",
            hint="check [database] url and that PostgreSQL runs there; without a url Paddock runs one of its own",
        ) from e
    except psycopg.Error as e:
        raise Refused(f"the database url of paddock.toml can't be used: {' '.join(str(e).split())}") from e
    if version < OLDEST:
        raise Refused(f"the database is PostgreSQL {version // 10000}", hint="Paddock needs 13 or newer")
    if row is None or not row[0]:
        raise Refused(
            f"user {row[1] if row else '?'} may not make tables in the database of paddock.toml",
            hint="make it the database's owner",
        )


if __name__ == "__main__":
    sys.exit(main())
