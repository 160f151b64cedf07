"""`tocsin completion`: Tab completes verbs, options and ids of sources."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from control.cli import options, show
from control.cli.trouble import Trouble

COMPLETE = "_TOCSIN_COMPLETE"
FILES = {
    "bash": Path(".local/share/bash-completion/completions/tocsin"),
    "zsh": Path(".zfunc/_tocsin"),
    "fish": Path(".config/fish/completions/tocsin.fish"),
}
"""Where each shell finds completions of its user's own, below the home folder."""
AFTERWARDS = {
    "bash": "open a new shell (it needs the package bash-completion)",
    "zsh": "have `fpath+=~/.zfunc; autoload -Uz compinit; compinit` in ~/.zshrc, and open a new shell",
    "fish": "open a new shell",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(FILES)))
@click.option("--install", is_flag=True, help="Put it where the shell looks, below your home folder.")
@options.reading
def completion(shell: str, install: bool) -> None:
    """Print what makes SHELL complete verbs, options and ids of sources; or --install it."""
    found = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if found is None:
        raise Trouble(f"nothing is known of the shell {shell!r}")
    source = found(root.command, {}, "tocsin", COMPLETE).source()
    if not install:
        click.echo(source)
        return
    path = Path.home() / FILES[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{source}\n", "utf-8")
    if options.wants_json():
        show.as_json({"completion": {"shell": shell, "file": str(path)}})
    else:
        click.echo(f"{path} is there; {AFTERWARDS[shell]}")
