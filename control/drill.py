"""A planned switch of the primary on a running station, and what it cost those who were at work meanwhile.

By Valkey's `SENTINEL FAILOVER … COORDINATED` where the Sentinels have it. Elsewhere as near to it as can
be: the primary is paused for writes, its replicas catch up, and only then are the Sentinels asked. The
plain form alone promotes while the old primary still takes writes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from redis.exceptions import RedisError

from control.desk import Desk, Wish
from control.guard import replication, rules
from control.guard.remote import Remote
from control.station.ask import NoAnswer as Silent
from control.station.ask import Refused as RefusedBy
from streams import sentinel
from streams.breaker import BreakerOpen
from streams.connection import Unreachable, connect
from streams.names import floating_lanes
from streams.sentinel import Address
from streams.settings import RedisSection, Settings
from streams.submit import InDoubt, NoAnswer, Signed

SOURCE = "drill"
"""Whom the drill's commands address: nobody has this id, so each is answered, and nothing else happens."""
PAUSE = 10.0
"""Seconds that the old primary may be kept from writes, where the Sentinels cannot coordinate."""
EVERY = 0.02
"""Seconds between two writes that measure."""
SWITCH_WITHIN = 30.0
WHOLE_WITHIN = 60.0
SEEN_WITHIN = 30.0
"""Seconds in which every Sentinel has seen what each replica is by now: they ask every ten."""
ANSWER_WITHIN = 60.0
CALM = 1.0
"""Seconds of measuring before the switch and after it."""

Form = Literal["coordinated", "paused"]
Found = TypeVar("Found")


class NotFit(Exception):
    """Raised when the station is not whole enough to lose its primary on purpose; nothing was done."""


class NotSwitched(Exception):
    """Raised when the Sentinels did not switch in time."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the switch cost; times are in milliseconds, from the moment that it was asked for.

    `unwritable_ms` is the longest span in which the primary took no write, `unconfirmed_ms` that in which no
    command was confirmed. `lost` are commands without an answer a minute later.
    """

    form: Form
    before: str
    after: str
    switched_ms: int
    unwritable_ms: int
    confirmed_ms: int
    unconfirmed_ms: int
    whole_ms: int
    commands: int
    lost: int


def drill(settings: Settings, admin: RedisSection, directory: Path) -> Cost:
    """Switch the primary while commands are given. Raises NotFit, NotSwitched, Unreachable, InvalidKey."""
    before = fit(admin)
    work = _Work(settings, admin, directory)
    work.start()
    try:
        time.sleep(CALM)
        asked = time.monotonic()
        form = switch(admin, before)
        after = _await(lambda: _other(admin, before), SWITCH_WITHIN)
        if after is None:
            raise NotSwitched(f"the Sentinels still name {before} after {SWITCH_WITHIN:.0f} s")
        switched = time.monotonic()
        _await(lambda: work.confirmed_after(asked), ANSWER_WITHIN)
        whole = _await(lambda: _whole(admin), WHOLE_WITHIN)
        whole_at = time.monotonic()
        time.sleep(CALM)
    finally:
        work.stop()
    if whole is None:
        raise NotSwitched(f"{after} leads, but its replicas are not in sync after {WHOLE_WITHIN:.0f} s")
    confirmed = work.confirmed_after(asked)
    return Cost(
        form=form,
        before=str(before),
        after=str(after),
        switched_ms=_ms(switched - asked),
        unwritable_ms=_ms(longest_gap(work.writes, asked, whole_at)),
        confirmed_ms=_ms((confirmed or whole_at) - asked),
        unconfirmed_ms=_ms(longest_gap([at for _, at in work.answers], asked, whole_at)),
        whole_ms=_ms(whole_at - asked),
        commands=work.given,
        lost=work.given - len(work.answers),
    )


def fit(redis: RedisSection) -> Address:
    """Who leads, where the station can do without it for a moment. Raises NotFit."""
    opinions = sentinel.ask(redis)
    named = {opinion.address for opinion in opinions}
    if len(opinions) < len(redis.sentinels) or len(named) != 1:
        raise NotFit(
            f"{len(opinions)} of {len(redis.sentinels)} Sentinels answer, naming {len(named)} primaries"
        )
    if any(opinion.failing for opinion in opinions):
        raise NotFit("a Sentinel sees a fault, or a failover is in progress")
    (leads,) = named
    if not _whole(redis):
        raise NotFit(f"{leads} has not all of its {redis.replicas} replicas in sync and ready to be promoted")
    _await_seen(redis)
    return leads


def _await_seen(redis: RedisSection) -> None:
    """Wait until no Sentinel takes a replica for something else than it is by now. Raises NotFit.

    One that has not yet seen that a former primary follows demotes it again just as another promotes it:
    no primary then, until the failover is given up after ten seconds.
    """
    if _await(lambda: _unready(redis) == set() or None, SEEN_WITHIN) is None:
        names = ", ".join(sorted(map(str, _unready(redis))))
        raise NotFit(f"not every Sentinel sees a replica that can be promoted in {names}")


def _unready(redis: RedisSection) -> set[Address]:
    return {one for opinion in sentinel.ask(redis) for one in opinion.unready}


def switch(redis: RedisSection, leads: Address) -> Form:
    """Ask the Sentinels to switch, in the best form they have. Raises NotSwitched."""
    asked = ("SENTINEL", "FAILOVER", redis.service)
    for one in redis.sentinels:
        host, _, port = one.rpartition(":")
        remote = Remote((host, int(port)), _to_sentinel(redis))
        try:
            remote.call(*asked, "COORDINATED")
            return "coordinated"
        except Silent:
            continue
        except RefusedBy as error:
            if "wrong number" not in str(error).lower() and "unknown" not in str(error).lower():
                raise NotSwitched(f"the Sentinel {one} refuses: {error}") from None
        _switch_paused(redis, leads, remote, asked)
        return "paused"
    raise NotSwitched("no Sentinel answers")


def _switch_paused(redis: RedisSection, leads: Address, remote: Remote, asked: tuple[str, ...]) -> None:
    """Keep the primary from writes until its replicas have all of it, and switch then."""
    primary = Remote(leads, redis)
    primary.call("CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
    try:
        if _await(lambda: _caught_up(primary, redis.replicas) or None, PAUSE / 2) is None:
            raise NotSwitched(f"the replicas of {leads} do not catch up")
        remote.call(*asked)
    except (Silent, RefusedBy, NotSwitched) as error:
        with contextlib.suppress(Silent, RefusedBy):
            primary.call("CLIENT", "UNPAUSE")
        raise NotSwitched(str(error)) from None


def _caught_up(primary: Remote, replicas: int) -> bool:
    said = replication.facts(primary, "replication")
    wanted = f"offset={said['master_repl_offset']}"
    behind = [value for name, value in said.items() if name.startswith("slave") and name[5:].isdigit()]
    return sum(wanted in value.split(",") for value in behind) >= replicas


def _other(redis: RedisSection, than: Address) -> Address | None:
    """The primary that a majority names and sees no fault in, if it is another."""
    opinions = sentinel.ask(redis)
    named = {opinion.address for opinion in opinions} - {than}
    return next((one for one in named if sentinel.agreed(opinions, redis, one)), None)


def _whole(redis: RedisSection) -> bool | None:
    """Whether the primary has all of its replicas in sync, and each may be promoted; None where not."""
    opinions = sentinel.ask(redis)
    known = {one for opinion in opinions for one in (opinion.replicas or ())} | {o.address for o in opinions}
    said = [replication.standing(Remote(one, redis)) for one in known]
    well = sum(
        one is not None and one.priority == rules.PROMOTABLE and (one.role == "master" or one.linked)
        for one in said
    )
    leads = next((opinion.address for opinion in opinions), None)
    attached = replication.attached(Remote(leads, redis)) if leads else 0
    return True if well > redis.replicas and attached >= redis.replicas else None


class _Work:
    """Somebody who writes to the primary, and somebody who gives commands, all the time."""

    def __init__(self, settings: Settings, admin: RedisSection, directory: Path) -> None:
        self.writes: list[float] = []
        self.answers: list[tuple[float, float]] = []
        self.given = 0
        self._admin = admin
        self._station = settings.station.id
        self._desk = Desk(settings, directory)
        self._lane = floating_lanes(settings.station.lanes)[0]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._write, self._command)]
        # Before anything begins: a key that cannot sign is found here.
        self._desk.sign(Wish(type="source.stop", source=SOURCE), self._lane)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_WITHIN + 5)
        self._desk.close()

    def confirmed_after(self, asked: float) -> float | None:
        """When the first command that was given after `asked` was confirmed."""
        return next((at for began, at in self.answers if began > asked), None)

    def _write(self) -> None:
        link = connect(self._admin, "drill")
        while not self._stop.wait(EVERY):
            with contextlib.suppress(Unreachable, RedisError):
                link.call("SET", f"tocsin:{self._station}:drill", "x", "EX", 60)
                self.writes.append(time.monotonic())
        link.close()

    def _command(self) -> None:
        while not self._stop.is_set():
            self.given += 1
            began = time.monotonic()
            signed = self._desk.sign(Wish(type="source.stop", source=SOURCE), self._lane)
            if self._answered(signed, began + ANSWER_WITHIN):
                self.answers.append((began, time.monotonic()))

    def _answered(self, signed: Signed, until: float) -> bool:
        """Ask, with the same bytes, until it is known what became of it."""
        while time.monotonic() < until:
            try:
                self._desk.send(signed, timeout=5)
                return True
            except (InDoubt, NoAnswer, Unreachable, BreakerOpen):
                time.sleep(EVERY)
        return False


def longest_gap(times: list[float], since: float, until: float) -> float:
    """The longest span between `since` and `until` in which nothing happened, in seconds."""
    within = [since, *sorted(at for at in times if since < at < until), until]
    return max(later - earlier for earlier, later in pairwise(within))


def _to_sentinel(redis: RedisSection) -> RedisSection:
    user, password = redis.sentinel_login
    return msgspec.structs.replace(redis, username=user, password=password)


def _await(look: Callable[[], Found | None], seconds: float) -> Found | None:
    until = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(EVERY)
    return found


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
