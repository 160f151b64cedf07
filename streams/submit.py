"""Submitting commands and learning what became of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any
from uuid import uuid4

import msgspec
from redis.exceptions import ResponseError

from streams import traces
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.durability import Prover, highest, patience
from streams.faults import fault_of
from streams.messages import MAX_COMMAND_BYTES, Answer, Command, Durability, canonical, decode_answer, digest
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import Key, sign

TURN = 0.01
"""Seconds to wait for replies of one lane before those of the next, where they lie with several servers."""
ASK_AGAIN = 1.0
"""Seconds without a reply after which the lane is asked for the answer itself."""
AT_ONCE = 200
"""Commands submitted in one call: the server does nothing else meanwhile."""


class Refused(Exception):
    """Raised when a command was not accepted into its lane; nothing will come of it."""

    def __init__(self, reason: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.field = field


class Full(Refused):
    """Raised when a command was not accepted because the rest of Redis' memory is kept for results."""

    def __init__(self, percent: int) -> None:
        super().__init__(
            "full",
            f"Redis' memory is used to {percent} % (archive.high_water): no new commands are taken until "
            "events are archived and let go of, and the rest is kept for results",
        )


class NoAnswer(Exception):
    """Raised when a command was accepted and no result is known yet; ask again by the same id."""

    def __init__(self, id: str, seconds: float) -> None:
        super().__init__(f"no answer to command {id} within {seconds:g} s; it may still come")
        self.id = id


class InDoubt(Exception):
    """Raised when nobody knows whether a command was accepted; sending the same id again is safe."""

    def __init__(self, id: str, detail: str) -> None:
        super().__init__(f"{detail}: command {id} may yet run, and submitting the same id again is safe")
        self.id = id


class Signed(msgspec.Struct, frozen=True):
    """A command with the bytes that were signed and their signature."""

    command: Command
    raw: bytes
    signature: str


def signed(command: Command, key: Key) -> Signed:
    """Sign `command` with `key`."""
    raw = canonical(command)
    return Signed(command, raw, sign(raw, key))


class Submitter:
    """Submits signed commands over one link; not thread-safe.

    In a cluster it leaves that to others, one for each `lane`: WAIT proves what one server has, and
    an owner replies where its lane is. So the name that these are replied to has the lane's hash tag.
    """

    def __init__(
        self, settings: Settings, link: Link, prover: Prover | None = None, *, lane: str = ""
    ) -> None:
        self._settings = settings
        self._link = link
        self._in_lanes: dict[str, Submitter] = {}
        self._station = StationKeys(settings.station.id)
        self._default: Durability = settings.durability
        self._has_archive = bool(settings.postgres.url)
        self._high_water = settings.archive.high_water
        self._prover = prover or Prover(settings.redis)
        self._replies = f"{{{lane}}}.{uuid4().hex}" if lane else uuid4().hex
        self._last_reply = b"0"

    def submit(self, signed: Signed, *, timeout: float = 10.0) -> Answer:
        """Submit and wait for the outcome, at most `timeout` seconds.

        Raises Refused (not accepted), NoAnswer (accepted, no result yet), InDoubt (nobody knows),
        Unreachable (nothing was submitted).
        """
        if self._link.spans_slots:
            return self._in(signed.command.lane).submit(signed, timeout=timeout)
        with traces.submitting("submit", [signed.command]):
            return self._submit(signed, timeout)

    def _submit(self, signed: Signed, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        id = signed.command.id
        answer = self._send_and_wait(signed, min(timeout / 2, ASK_AGAIN))
        accepted = False
        doubt = InDoubt(id, f"no answer within {timeout:g} s")
        backoff = Backoff()
        while answer is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswer(id, timeout) if accepted else doubt
            try:
                if accepted:
                    answer = self._await_reply(id, min(left, ASK_AGAIN))
                # What says "accepted" must itself be durable, and so must what was known before.
                answer = answer or _one(self._accept([signed], max(deadline - time.monotonic(), 0.1)))
                accepted = True
            except (Unreachable, InDoubt) as error:
                # It was sent: a failover now only delays the answer.
                doubt = error if isinstance(error, InDoubt) else doubt
                backoff.wait(within=max(deadline - time.monotonic(), 0.0))
        return answer

    def _send_and_wait(self, signed: Signed, seconds: float) -> Answer | None:
        """Submit and block for the reply in one round trip; None where none came within `seconds`.

        Nothing is asked about the durability of the command itself: an answer is given only once the
        result is durable, and then so is all that stands before it.
        """
        if refusal := self.refusal(signed):
            raise refusal
        id = signed.command.id
        accepted: list[bool] = []

        def refused(reply: Any) -> bool:
            accepted.append(_is_new(reply))
            return not all(accepted)

        try:
            replies = self._link.batch(
                [self._request([signed]), self._waiting(seconds)], timeout=seconds, enough=refused
            )
        except Unreachable as error:
            if accepted:
                return None
            if not error.sent:
                raise
            raise InDoubt(id, error.detail) from error
        if isinstance(replies[0], ResponseError):
            raise _unusable(replies[0])
        if not all(accepted):
            # Refused, or known: that is told only once it is durable, which `accept` sees to.
            return None
        return next((answer for answer in self._arrived(replies[1]) if answer.id == id), None)

    def accept(self, signed: Signed, *, timeout: float) -> Answer | None:
        """Submit and return once that is durable: the answer if one stands already, else None."""
        return _one(self.accept_all([signed], timeout=timeout))

    def accept_all(self, commands: Sequence[Signed], *, timeout: float) -> list[Answer | Refused | None]:
        """Submit many in one round trip; for each what `accept` would return or, of Refused, raise.

        Raises InDoubt (of one: nobody knows which of them were accepted), Unreachable.
        """
        if self._link.spans_slots:
            return self._accept_in_lanes(commands, timeout)
        with traces.submitting("accept", [one.command for one in commands]):
            return self._accept(commands, timeout)

    def _accept(self, commands: Sequence[Signed], timeout: float) -> list[Answer | Refused | None]:
        refused = [self.refusal(one) for one in commands]
        sending = [one for one, refusal in zip(commands, refused, strict=True) if refusal is None]
        # Those of a lane go together, in their order; a source's all have the same lane.
        order = sorted(range(len(sending)), key=lambda at: sending[at].command.lane)
        told = self._send([sending[at] for at in order], timeout) if sending else ()
        replies = map(dict(zip(order, told, strict=True)).__getitem__, range(len(sending)))
        accepted: list[Answer | Refused | None] = []
        for one, refusal in zip(commands, refused, strict=True):
            accepted.append(refusal or self._read(next(replies), one.command))
        return accepted

    def _send(self, commands: Sequence[Signed], timeout: float) -> list[Any]:
        """Submit until that is durable for all; the server's replies."""
        level = highest([self._level(one.command) for one in commands])
        requests = [self._request(some) for some in _batched(commands)]
        first = commands[0].command.id
        deadline = time.monotonic() + timeout
        sent = False
        while True:
            wait = self._prover.command(level, self._link)
            try:
                batch = [*requests, wait] if wait else requests
                replies = self._link.batch(batch, timeout=patience(wait) if wait else None)
            except Unreachable as error:
                if not (sent or error.sent):
                    raise
                raise InDoubt(first, error.detail) from error
            errors = [reply for reply in replies[: len(requests)] if isinstance(reply, ResponseError)]
            if errors and (sent or len(errors) < len(requests)):
                raise InDoubt(first, _unusable(errors[0]).detail)
            if errors:
                raise _unusable(errors[0])
            sent = True
            if not wait or self._prover.accepts(level, replies[-1], self._link):
                return [reply for some in replies[: len(requests)] for reply in some]
            if time.monotonic() > deadline:
                # The next attempt asks the Sentinels again: this may be a primary that was cut off.
                self._link.close()
                raise InDoubt(first, f"durability {level!r} was not reached within {timeout:g} s")
            time.sleep(0.02)

    def receive(self, seconds: float, count: int = 1000) -> list[Answer]:
        """Answers to what was submitted here, as they arrive; empty when `seconds` brought none.

        An answer can be lost with a primary: ask again by `accept` for what is missed. Raises Unreachable.
        """
        if self._link.spans_slots:
            return self._receive_in_lanes(seconds, count)
        return self._arrived(self._link.call(*self._waiting(seconds, count), timeout=seconds))

    def _waiting(self, seconds: float, count: int = 1000) -> tuple[Any, ...]:
        """The command that blocks for replies, at most `count` entries of them."""
        key = self._station.replies(self._replies)
        block = max(1, int(seconds * 1000))
        return ("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", key, self._last_reply)

    def _arrived(self, read: Any) -> list[Answer]:
        """The answers that it read; an owner tells in one entry what it tells at once."""
        if not read:
            return []
        self._last_reply = read[0][1][-1][0]
        return [decode_answer(answer) for _, fields in read[0][1] for answer in fields[1::2]]

    def _in(self, lane: str) -> Submitter:
        """Who submits to `lane` in a cluster."""
        if lane not in self._in_lanes:
            link = self._link.at(self._station.lane(lane).commands)
            self._in_lanes[lane] = Submitter(self._settings, link, self._prover, lane=lane)
        return self._in_lanes[lane]

    def _accept_in_lanes(self, commands: Sequence[Signed], timeout: float) -> list[Answer | Refused | None]:
        deadline = time.monotonic() + timeout
        lanes: dict[str, list[int]] = {}
        for index, one in enumerate(commands):
            lanes.setdefault(one.command.lane, []).append(index)
        accepted: dict[int, Answer | Refused | None] = {}
        for lane, indexes in lanes.items():
            some = [commands[index] for index in indexes]
            try:
                told = self._in(lane).accept_all(some, timeout=max(deadline - time.monotonic(), 0.1))
            except Unreachable as error:
                if not accepted:
                    raise
                raise InDoubt(commands[0].command.id, error.detail) from error
            accepted |= zip(indexes, told, strict=True)
        return [accepted[index] for index in range(len(commands))]

    def _receive_in_lanes(self, seconds: float, count: int) -> list[Answer]:
        deadline, turn = time.monotonic() + seconds, seconds if len(self._in_lanes) == 1 else TURN
        answers: list[Answer] = []
        while not answers and (left := deadline - time.monotonic()) > 0:
            for one in self._in_lanes.values():
                try:
                    answers += one.receive(min(turn, left), count)
                except Unreachable:
                    # What others were told must not be lost by it.
                    if not answers:
                        raise
            if not self._in_lanes:
                time.sleep(left)
        return answers

    def refusal(self, signed: Signed) -> Refused | None:
        """Why a command is not even sent; None where it is. Raises Unreachable."""
        level = self._level(signed.command)
        if len(signed.raw) > MAX_COMMAND_BYTES:
            detail = f"the command has {len(signed.raw)} bytes of at most {MAX_COMMAND_BYTES}"
            return Refused("too_large", detail)
        if level_asked(signed.command, self._default) == "archive" and not self._has_archive:
            detail = "durability 'archive' is not to be had here: the station has no Postgres (postgres.url)"
            return Refused("durability", detail, "durability")
        return self._no_disk() if level == "disk" else None

    def _level(self, command: Command) -> Durability:
        """What its acceptance waits for; where it is `archive`, that is for the result to wait for."""
        level = level_asked(command, self._default)
        return highest([level, self._default]) if level == "archive" else level

    def _no_disk(self) -> Refused | None:
        """Asked before anything is submitted: a WAITAOF that is refused afterwards would be too late."""
        try:
            self._link.call("WAITAOF", 1, 0, 1)
        except ResponseError as error:
            return Refused("durability", f"durability 'disk' is not to be had here: {error}", "durability")
        return None

    def _request(self, commands: Sequence[Signed]) -> list[Any]:
        """The call that submits commands of one lane."""
        keys = self._station.lane(commands[0].command.lane)
        request: list[Any] = [
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence
        ]  # fmt: skip
        for signed in commands:
            command = signed.command
            expected = "" if command.if_sequence is None else command.if_sequence
            request += (command.id, digest(signed.raw), command.source, signed.raw, signed.signature)
            request += (self._replies, expected)
        request.append(self._high_water)
        return request

    def _read(self, reply: list[Any], command: Command) -> Answer | Refused | None:
        status = reply[0]
        if status == b"conflict":
            return Refused("conflict", f"id {command.id} was used for another command; use a new id", "id")
        if status == b"sequence":
            last = reply[1].decode()
            return Refused(
                "sequence",
                f"{command.source!r} is at sequence {last}, not {command.if_sequence}: "
                f"somebody else was faster; look at its state and decide again",
                "if_sequence",
            )
        if status == b"full":
            return Full(int(reply[1]))
        if status == b"known":
            text = reply[1].split(b" ", 3)[3]
            answer = decode_answer(text) if text else None
            if answer and level_asked(command, self._default) == "archive" and not self._is_archived(answer):
                return None
            return answer
        return None

    def _is_archived(self, answer: Answer) -> bool:
        try:
            archived = self._link.call("HGET", self._station.lane(answer.lane).archived, "seq")
        except Unreachable as error:
            raise InDoubt(answer.id, error.detail) from error
        return int(archived or 0) >= answer.seq

    def _await_reply(self, id: str, seconds: float) -> Answer | None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                arrived = self.receive(left)
            except ResponseError:
                # What stands under that key takes no replies: the lane itself is asked.
                time.sleep(min(left, 0.1))
                return None
            for answer in arrived:
                if answer.id == id:
                    return answer
        return None


def _batched(commands: Sequence[Signed]) -> Iterator[Sequence[Signed]]:
    """Neighbours of the same lane together, as many as one call takes."""
    for _, same in groupby(commands, key=lambda one: one.command.lane):
        while some := list(islice(same, AT_ONCE)):
            yield some


def _one(accepted: list[Answer | Refused | None]) -> Answer | None:
    """What became of the only one. Raises Refused."""
    (only,) = accepted
    if isinstance(only, Refused):
        raise only
    return only


def _is_new(reply: Any) -> bool:
    """Whether this is no error, no refusal of the one command submitted, nor what stands of it already."""
    if isinstance(reply, ResponseError):
        return False
    return reply is None or reply[0][0] not in (b"known", b"conflict", b"sequence", b"full")


def level_asked(command: Command, default: Durability) -> Durability:
    """The durability that a command asks for: its own, or the station's."""
    return command.durability or default


def _unusable(error: ResponseError) -> Unreachable:
    fault = fault_of(error)
    detail = f"{fault.means}: {fault.next} ({error})" if fault else str(error)
    return Unreachable(detail, sent=False, fault=fault)
