"""Files that a command is given, as text: by a path, or - for stdin."""

import sys
from pathlib import Path

from paddock.base.errors import Invalid


def text_of(path: str, field: str) -> str:
    """What is in the file; nothing where none was given. Raises Invalid, which names the field that it was for."""
    if not path:
        return ""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8")
    except OSError as e:
        raise Invalid(f"{path} can't be read: {e.strerror}", field=field) from e
    except UnicodeDecodeError as e:
        raise Invalid(f"{path} is not UTF-8: byte {e.start} is {e.object[e.start]:#x}", field=field) from e
