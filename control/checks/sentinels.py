"""Sentinels: whether each answers, and whether they agree on who leads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
from redis.exceptions import RedisError

from control.checks.finding import Finding, ok, trouble, warning
from streams import lease, sentinel
from streams.sentinel import Opinion
from streams.settings import RedisSection


def sentinels(redis: RedisSection) -> Finding:
    """Whether all Sentinels answer and name the same primary; who does not is named."""
    part, needed = "sentinels", sentinel.majority(redis)
    asked = {one: sentinel.ask(msgspec.structs.replace(redis, sentinels=(one,))) for one in redis.sentinels}
    opinions = {one: said[0] for one, said in asked.items() if said}
    named = sorted({str(opinion.address) for opinion in opinions.values()})
    told = f"{len(opinions)} of {len(asked)} answer, naming {', '.join(named) or 'nobody'}"
    silent = "; ".join(f"{one}: {_why(one, redis)}" for one, said in asked.items() if not said)
    if len(opinions) < needed:
        return trouble(
            part, f"{told} ({silent})", f"without {needed} of them no primary is found: start or mend these"
        )
    stray = _stray(opinions)
    if len(opinions) - len(stray) < needed:
        return trouble(
            part, f"{told}: no majority agrees", "wait ten seconds; if it lasts, restart those that are wrong"
        )
    if stray:
        told += f"; {', '.join(stray)} {'names' if len(stray) == 1 else 'name'} another than the majority"
        return warning(
            part,
            told,
            "after a failover this passes in seconds; if it lasts, restart that one: it is cut off",
        )
    if any(opinion.failing for opinion in opinions.values()):
        return warning(part, f"{told}, which fails", "a failover is in progress: look again in ten seconds")
    if silent:
        return warning(part, f"{told} ({silent})", "start those missing: one more lost is too many")
    return ok(part, told)


def promotable(redis: RedisSection) -> Iterator[Finding]:
    """Whether there is a replica that the Sentinels could promote, by what most of those that tell know."""
    opinions = sentinel.ask_each(redis).values()
    seen = [one.seen for one in opinions if one is not None and one.replicas is not None]
    if not seen:
        return
    told_of = Counter((sum(one.hidden for one in replicas), len(replicas)) for replicas in seen)
    count, known = told_of.most_common(1)[0][0]
    told = f"{count} of {known} replicas must not be promoted (replica-priority 0)"
    passes = "it passes once they are in sync; if it lasts, look at the guard beside each (tocsin run guard)"
    if known and count == known:
        next = f"{passes}, or without one: CONFIG SET replica-priority 100"
        yield trouble("promotion", f"{told}: nobody can take the primary's place", next)
    elif count:
        yield warning("promotion", told, passes)


def down_after(redis: RedisSection) -> Iterator[Finding]:
    """Whether a lease outlives a failover, by when each Sentinel that answers deems a primary down."""
    longest = lease.LENGTH - lease.FAILOVER
    told = {one: said.down_after for one, said in sentinel.ask_each(redis).items() if said is not None}
    late = {one: seconds for one, seconds in told.items() if seconds > longest}
    if not late:
        return
    each = ", ".join(f"{seconds * 1000:.0f} on {one}" for one, seconds in late.items())
    yield warning(
        "down-after",
        f"down-after-milliseconds is {each}: with the {lease.FAILOVER:.0f} s that a failover may take, "
        f"more than a lease lasts ({lease.LENGTH:.0f} s), so that every lane may lose its owner",
        f"SENTINEL SET {redis.service} down-after-milliseconds 2000 there (at most {longest * 1000:.0f})",
    )


def _stray(opinions: dict[str, Opinion]) -> list[str]:
    """The Sentinels that name another primary than most do; of two that differ, the staler one."""
    votes: dict[sentinel.Address, tuple[int, int]] = {}
    for opinion in opinions.values():
        count, epoch = votes.get(opinion.address, (0, 0))
        votes[opinion.address] = count + 1, max(epoch, opinion.epoch)
    leader = max(votes, key=lambda address: votes[address])
    return [one for one, opinion in opinions.items() if opinion.address != leader]


def _why(one: str, redis: RedisSection) -> str:
    """Why a Sentinel says nothing of the service."""
    connection = sentinel.open_sentinel(one, redis)
    try:
        connection.connect()
        connection.send_command("SENTINEL", "MASTER", redis.service)
        connection.read_response()
    except (RedisError, OSError) as error:
        return str(error)
    finally:
        connection.disconnect()
    return "it answered too late"
