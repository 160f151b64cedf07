"""Submitting commands and learning what became of them."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import msgspec
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.durability import Prover, patience
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
        command = signed.command
        if len(signed.raw) > MAX_COMMAND_BYTES:
            raise Refused(
                "too_large", f"the command has {len(signed.raw)} bytes of at most {MAX_COMMAND_BYTES}"
            )
        level = command.durability or self._default
        if level == "archive":
            raise Refused("durability", "durability 'archive' is not offered by this station", "durability")
        if level == "disk":
            self._check_disk()
        request = self._request(signed)
        deadline = time.monotonic() + timeout
        sent = False
        while True:
            wait = self._prover.command(level)
            try:
                batch = [request, wait] if wait else [request]
                reply, *waited = self._link.batch(batch, timeout=patience(wait) if wait else None)
            except Unreachable as error:
                if not (sent or error.sent):
                    raise
                raise InDoubt(command.id, error.detail) from error
            if isinstance(reply, ResponseError):
                if sent:
                    raise InDoubt(command.id, _unusable(reply))
                raise Unreachable(_unusable(reply), sent=False)
            sent = True
            if not wait or self._prover.accepts(level, waited[0], self._link):
                return self._read(reply, command)
            if time.monotonic() > deadline:
                # The next attempt asks the Sentinels again: this may be a primary that was cut off.
                self._link.close()
                raise InDoubt(command.id, f"durability {level!r} was not reached within {timeout:g} s")
            time.sleep(0.02)

    def _check_disk(self) -> None:
        """Ask before anything is submitted: a WAITAOF that is refused afterwards would be too late."""
        try:
            self._link.call("WAITAOF", 1, 0, 1)
        except ResponseError as error:
            detail = f"durability 'disk' is not to be had here: {error}"
            raise Refused("durability", detail, "durability") from error

    def _request(self, signed: Signed) -> list[Any]:
        command = signed.command
        keys = self._station.lane(command.lane)
        expected = "" if command.if_sequence is None else command.if_sequence
        return [
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            command.id, digest(signed.raw), command.source, signed.raw, signed.signature,
            self._replies, expected,
        ]  # fmt: skip

    def _read(self, reply: list[Any], command: Command) -> Answer | None:
        status = reply[0]
        if status == b"conflict":
            raise Refused("conflict", f"id {command.id} was used for another command; use a new id", "id")
        if status == b"sequence":
            last = reply[1].decode()
            raise Refused(
                "sequence",
                f"{command.source!r} is at sequence {last}, not {command.if_sequence}: "
                f"somebody else was faster; look at its state and decide again",
                "if_sequence",
            )
        if status == b"known":
            text = reply[1].split(b" ", 3)[3]
            return decode_answer(text) if text else None
        return None

    def _await_reply(self, id: str, seconds: float) -> Answer | None:
        deadline = time.monotonic() + seconds
        key = self._station.replies(self._replies)
        while (left := deadline - time.monotonic()) > 0:
            read = self._link.call(
                "XREAD", "BLOCK", max(1, int(left * 1000)), "STREAMS", key, self._last_reply, timeout=left
            )
            for entry, fields in read[0][1] if read else ():
                self._last_reply = entry
                if fields[1] == id.encode():
                    return decode_answer(fields[3])
        return None


def _unusable(error: ResponseError) -> str:
    if "Function not found" in str(error):
        return "the server-side functions are not loaded: start an ingest node, or run `tocsin doctor`"
    return str(error)
