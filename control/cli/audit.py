"""`tocsin audit …`: show that the log is whole, follow one command through it, look at how things were."""

from __future__ import annotations

import click

from control.cli.lazy import LazyGroup, Verb

VERBS = {
    "verify": Verb("control.cli.verify:verify_log", "Check the whole log, or an export; name what is wrong."),
    "replay": Verb("control.cli.replay:replay_log", "Print events as they were hashed, oldest first."),
    "trace": Verb("control.cli.trace:trace_command", "Follow one command through its whole life."),
    "state": Verb("control.cli.state:show_state", "Show the sources and commands as they were."),
    "diff": Verb("control.cli.state:show_difference", "Show what changed between two moments."),
    "checkpoint": Verb(
        "control.cli.evidence:make_checkpoint", "Sign where all lanes stand, to keep elsewhere."
    ),
    "export": Verb("control.cli.evidence:make_export", "Write the log with a signed manifest, to hand on."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def audit() -> None:
    """Show that the log is whole, follow commands, look back, hand it on."""
