"""How an error reaches a person: one line that says what is wrong, one with a hint, on stderr. No traceback."""

from rich.text import Text

from paddock.base.errors import PaddockError
from paddock.cli.output import clean, stderr


def report(error: PaddockError) -> None:
    """Print it."""
    field = f"{error.field}: " if error.field and error.field not in error.message else ""
    say(f"{field}{error.message}", error.hint)


def say(message: str, hint: str = "") -> None:
    """Print an error's message and what to do about it."""
    console = stderr()
    whole_lines = not console.is_terminal  # a person reads words that are not cut in two
    console.print(Text("error: ", "bold red") + Text(clean(message), ""), soft_wrap=whole_lines)
    if hint:
        console.print(Text("hint: ", "cyan") + Text(clean(hint), ""), soft_wrap=whole_lines)
