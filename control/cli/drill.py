"""`tocsin drill …`: what would happen if, tried on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from control.cli import options, session, show
from control.cli.trouble import Trouble
from control.outcomes import EXIT_CODES, WRONG_USAGE

if TYPE_CHECKING:
    from control.drill import Cost


@click.group()
def drill() -> None:
    """Try on a running station what an accident would do, and see what it costs."""


@drill.command("failover")
@options.reading
def failover() -> int:
    """Switch the Redis primary in order, while commands are given, and say what it cost them.

    Nothing that was confirmed is lost by it. The commands stop a source named `drill`, which there is not,
    so each is answered and nothing else happens. Waits first until every Sentinel has seen the last switch,
    at most 30 s. Needs the password of the role `admin`.
    """
    from control.drill import NotFit, NotSwitched
    from control.drill import drill as run

    here = session.place()
    settings = here.settings()
    if not settings.redis.sentinels:
        raise Trouble(
            "there is nobody to switch the primary",
            why="the settings name no Sentinels",
            next="a Redis Cluster is switched by CLUSTER FAILOVER at a replica; one server cannot be",
            code=WRONG_USAGE,
        )
    try:
        cost = run(settings.as_role("submitter"), settings.as_role("admin").redis, here.folder())
    except NotFit as error:
        raise Trouble(
            "the station is not whole, so nothing was done", why=str(error), next="tocsin doctor"
        ) from None
    except NotSwitched as error:
        raise Trouble("the primary was not switched", why=str(error), next="tocsin doctor") from None
    if options.wants_json():
        show.as_json({"drill": msgspec.to_builtins(cost)})
    else:
        _tell(cost)
    return EXIT_CODES["failed"] if cost.lost else 0


def _tell(cost: Cost) -> None:
    forms = {
        "coordinated": "coordinated by the Sentinels (nothing is written while they switch)",
        "paused": "writes paused, replicas caught up, then switched (these Sentinels cannot coordinate)",
    }
    show.facts(
        [
            ("primary", f"{cost.before} → {cost.after}"),
            ("form", forms[cost.form]),
            ("no write for", f"{cost.unwritable_ms} ms"),
            ("confirmed again", f"after {cost.confirmed_ms} ms; nothing was for {cost.unconfirmed_ms} ms"),
            ("whole again", f"after {cost.whole_ms} ms, with all replicas in sync"),
            ("commands", f"{cost.commands} given meanwhile, {cost.lost} without an answer"),
        ]
    )
