"""`tocsin alert acknowledge`: say that you see to what a notification told of."""

from __future__ import annotations

from typing import Any

import click

from control.cli import answers, options, session
from control.cli.trouble import Trouble
from control.outcomes import EXIT_CODES
from streams.names import STATION_LANE
from streams.vocabulary import ConditionAcknowledge, plain

EPISODES = "/api/audio/health/episodes"


@click.command("acknowledge")
@click.argument("episode", type=click.IntRange(min=1))
@options.submitting
def acknowledge(episode: int) -> None:
    """Say that you see to an episode: it is repeated no more, and the log keeps that it was you.

    EPISODE is the number that the notification names; `tocsin status` lists those that are open.
    """
    with session.readapi() as api:
        open = api.get(EPISODES)["data"]
    about = find(open, episode)
    seen = ConditionAcknowledge(episode=episode, rule=about["rule"], subject=about["subject"])
    with session.desk() as desk:
        wish = session.wish("condition.acknowledge", "", plain(seen), id=options.given().get("command_id"))
        answer = desk.submit(wish, STATION_LANE, timeout=options.timeout())
    answers.tell("condition.acknowledge", "", answer)


def find(open: list[dict[str, Any]], episode: int) -> dict[str, Any]:
    """The open episode of that number. Raises Trouble."""
    for one in open:
        if one["id"] == episode:
            return one
    raise Trouble(
        f"no episode {episode} is open",
        next="tocsin status lists those that are",
        code=EXIT_CODES["rejected"],
        reason="unknown_episode",
    )


def line(one: dict[str, Any]) -> str:
    """An open episode in a line, without its number."""
    told = f"{one['kind']}: {one['subject']}, since {one['opened_at'][:19].replace('T', ' ')} UTC"
    if one["acknowledged_by"]:
        return f"{told}, seen to by {one['acknowledged_by']}"
    unsure = [f"{state} at {target}" for target, state in one["notifications"].items() if state != "sent"]
    return ", ".join([told, *unsure])
