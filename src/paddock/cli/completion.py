"""`paddock completion`: the script by which a shell completes our commands and the names of servers."""

from typing import Annotated, Literal

import typer
from typer.completion import shell_complete

Shell = Literal["bash", "zsh", "fish"]
COMPLETE = "_PADDOCK_COMPLETE"  # what the shells' scripts ask us by


def completion(
    ctx: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print what teaches a shell to complete commands and names of servers with the Tab key.

    Put the line for your shell into ~/.bashrc, ~/.zshrc (after compinit) or ~/.config/fish/config.fish.

    Examples:
      source <(paddock completion bash)
      source <(paddock completion zsh)
      paddock completion fish | source
    """
    shell_complete(ctx.find_root().command, {}, "paddock", COMPLETE, f"source_{shell}")
