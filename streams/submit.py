"""Submitting commands and learning what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.durability import Prover, highest, patience
from streams.messages import MAX_COMMAND_BYTES, Answer, Command, Durability, canonical, decode_answer, digest
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import Key, sign

ASK_AGAIN = 1.0
"""Seconds without a reply after which the lane is asked for the answer itself."""


class Refused(Exception):
    """Raised when a command was not accepted into its lane; nothing will come of it."""

    def __init__(self, reason: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.field = field


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
    """Submits signed commands over one link; not thread-safe."""

    def __init__(self, settings: Settings, link: Link, prover: Prover | None = None) -> None:
        self._link = link
        self._station = StationKeys(settings.station.id)
        self._default: Durability = settings.durability
        self._has_archive = bool(settings.postgres.url)
        self._prover = prover or Prover(settings.redis)
        self._replies = uuid4().hex
        self._last_reply = b"0"

    def submit(self, signed: Signed, *, timeout: float = 10.0) -> Answer:
        """Submit and wait for the outcome, at most `timeout` seconds.

        Raises Refused (not accepted), NoAnswer (accepted, no result yet), InDoubt (nobody knows),
        Unreachable (nothing was submitted).
        """
        deadline = time.monotonic() + timeout
        answer = self.accept(signed, timeout=timeout)
        while answer is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswer(signed.command.id, timeout)
            try:
                answer = self._await_reply(signed.command.id, min(left, ASK_AGAIN))
                if answer is None:
                    answer = self.accept(signed, timeout=max(deadline - time.monotonic(), 0.1))
            except (Unreachable, InDoubt):
                # It was accepted and durable: a failover now only delays the answer.
                time.sleep(min(0.1, max(deadline - time.monotonic(), 0)))
        return answer

    def accept(self, signed: Signed, *, timeout: float) -> Answer | None:
        """Submit and return once that is durable: the answer if one stands already, else None."""
        accepted = self.accept_all([signed], timeout=timeout)[0]
        if isinstance(accepted, Refused):
            raise accepted
        return accepted

    def accept_all(self, commands: Sequence[Signed], *, timeout: float) -> list[Answer | Refused | None]:
        """Submit many in one round trip; for each what `accept` would return or, of Refused, raise.

        Raises InDoubt (of the first: nobody knows which of them were accepted), Unreachable.
        """
        refused = [self._refusal(one) for one in commands]
        sending = [one for one, refusal in zip(commands, refused, strict=True) if refusal is None]
        replies = iter(self._send(sending, timeout) if sending else ())
        accepted: list[Answer | Refused | None] = []
        for one, refusal in zip(commands, refused, strict=True):
            accepted.append(refusal or self._read(next(replies), one.command))
        return accepted

    def _send(self, commands: Sequence[Signed], timeout: float) -> list[Any]:
        """Submit until that is durable for all; the server's replies."""
        level = highest([self._level(one.command) for one in commands])
        requests = [self._request(one) for one in commands]
        first = commands[0].command.id
        deadline = time.monotonic() + timeout
        sent = False
        while True:
            wait = self._prover.command(level)
            try:
                batch = [*requests, wait] if wait else requests
                replies = self._link.batch(batch, timeout=patience(wait) if wait else None)
            except Unreachable as error:
                if not (sent or error.sent):
                    raise
                raise InDoubt(first, error.detail) from error
            errors = [reply for reply in replies[: len(requests)] if isinstance(reply, ResponseError)]
            if errors and (sent or len(errors) < len(requests)):
                raise InDoubt(first, _unusable(errors[0]))
            if errors:
                raise Unreachable(_unusable(errors[0]), sent=False)
            sent = True
            if not wait or self._prover.accepts(level, replies[-1], self._link):
                return replies[: len(requests)]
            if time.monotonic() > deadline:
                # The next attempt asks the Sentinels again: this may be a primary that was cut off.
                self._link.close()
                raise InDoubt(first, f"durability {level!r} was not reached within {timeout:g} s")
            time.sleep(0.02)

    def receive(self, seconds: float, count: int = 1000) -> list[Answer]:
        """Answers to what was submitted here, as they arrive; empty when `seconds` brought none.

        An answer can be lost with a primary: ask again by `accept` for what is missed. Raises Unreachable.
        """
        key = self._station.replies(self._replies)
        wait = ("BLOCK", max(1, int(seconds * 1000)), "STREAMS", key, self._last_reply)
        read = self._link.call("XREAD", "COUNT", count, *wait, timeout=seconds)
        if not read:
            return []
        self._last_reply = read[0][1][-1][0]
        return [decode_answer(fields[3]) for _, fields in read[0][1]]

    def _refusal(self, signed: Signed) -> Refused | None:
        """Why a command is not even sent."""
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

    def _request(self, signed: Signed) -> list[Any]:
        command = signed.command
        keys = self._station.lane(command.lane)
        expected = "" if command.if_sequence is None else command.if_sequence
        return [
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            command.id, digest(signed.raw), command.source, signed.raw, signed.signature,
            self._replies, expected,
        ]  # fmt: skip

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
        if status == b"known":
            text = reply[1].split(b" ", 3)[3]
            answer = decode_answer(text) if text else None
            if answer and level_asked(command, self._default) == "archive" and not self._is_archived(answer):
                return None
            return answer
        return None

    def _is_archived(self, answer: Answer) -> bool:
        try:
            archived = self._link.call("HGET", self._station.lane(answer.lane).head, "archived")
        except Unreachable as error:
            raise InDoubt(answer.id, error.detail) from error
        return int(archived or 0) >= answer.seq

    def _await_reply(self, id: str, seconds: float) -> Answer | None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for answer in self.receive(left):
                if answer.id == id:
                    return answer
        return None


def level_asked(command: Command, default: Durability) -> Durability:
    """The durability that a command asks for: its own, or the station's."""
    return command.durability or default


def _unusable(error: ResponseError) -> str:
    if "Function not found" in str(error):
        return "the server-side functions are not loaded: start an ingest node, or run `tocsin doctor`"
    return str(error)
