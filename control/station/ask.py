"""A question to one Redis server or Sentinel on this machine, each over a connection of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis

from control.station.ports import LOOPBACK

Login = str | tuple[str, str]
"""The default user's password (empty: none is asked for), or a user and a password."""


class NoAnswer(Exception):
    """Raised when the server cannot be reached or does not answer in time."""


class Refused(Exception):
    """Raised when the server answers with an error; the text is the server's."""


def ask_all(port: int, login: Login, *commands: tuple[str | int, ...], timeout: float = 0.5) -> list[Any]:
    """Send `commands` in one round trip; `timeout` in seconds holds for each part of it.

    Text comes back as str. Raises NoAnswer, or Refused with the first error answered.
    """
    words = (login,) if isinstance(login, str) else login
    sent = [("AUTH", *words), *commands] if login else list(commands)
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    answers: list[Any] = []
    try:
        with socket.create_connection((LOOPBACK, port), timeout) as connection:
            connection.sendall(b"".join(map(_packed, sent)))
            while len(answers) < len(sent):
                answer = reader.gets()
                if answer is not False:
                    answers.append(answer)
                    continue
                received = connection.recv(65536)
                if not received:
                    raise NoAnswer(f"127.0.0.1:{port} closed the connection")
                reader.feed(received)
    except (OSError, hiredis.ProtocolError) as error:
        raise NoAnswer(f"127.0.0.1:{port}: {error}") from None
    for answer in answers:
        if isinstance(answer, Exception):
            raise Refused(str(answer))
    return answers[1:] if login else answers


def _packed(command: tuple[str | int, ...]) -> bytes:
    # hiredis annotates its argument as a tuple of one element.
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def ask(port: int, login: Login, *command: str | int, timeout: float = 0.5) -> Any:
    """Send one command and return its answer; raises NoAnswer or Refused."""
    return ask_all(port, login, command, timeout=timeout)[0]


def info(port: int, login: Login, section: str) -> dict[str, str]:
    """A section of INFO as a dict; raises NoAnswer or Refused."""
    text = str(ask(port, login, "INFO", section))
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


@dataclass(frozen=True)
class At:
    """The server on a port of this machine, and as whom it is asked."""

    port: int
    login: Login = field(repr=False)

    def call(self, *command: str | int) -> Any:
        """The answer to one command; raises NoAnswer or Refused."""
        return ask(self.port, self.login, *command)

    def batch(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """The answers to commands sent in one round trip; raises NoAnswer or Refused."""
        return ask_all(self.port, self.login, *commands, timeout=2)
