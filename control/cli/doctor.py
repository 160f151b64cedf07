"""`tocsin doctor`: each part, and what to do about its trouble."""

from __future__ import annotations

import click
import msgspec

from control import outcomes
from control.cli import options, session, show
from control.doctor import examine


@click.command()
@options.reading
def doctor() -> int:
    """Check every part of the station; exit code 1 where one is in trouble."""
    findings = list(examine(session.place()))
    well = all(finding.verdict != "trouble" for finding in findings)
    if options.wants_json():
        show.as_json({"doctor": {"well": well, "findings": msgspec.to_builtins(findings)}})
    else:
        show.table(
            ("PART", "VERDICT", "WHAT IS SO"),
            ((finding.part, finding.verdict, _told(finding.told, finding.next)) for finding in findings),
        )
    return 0 if well else outcomes.FAULT


def _told(told: str, next: str) -> str:
    return f"{told}\n→ {next}" if next else told
