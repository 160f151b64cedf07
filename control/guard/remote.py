"""A Redis server anywhere, asked as the settings say: by its user, over TLS where that is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.connection import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Broken

from control.guard.rules import Address
from control.station.ask import NoAnswer, Refused
from streams.dial import dial
from streams.settings import RedisSection

PATIENCE = 0.5
"""Seconds to wait for a connection, and for each answer."""


class Remote:
    """The server at `address`; each question goes over a connection of its own, or over one that is `kept`.

    Over TLS, making one costs far more than a question: whoever asks again and again keeps it.
    """

    def __init__(self, address: Address, redis: RedisSection, *, kept: bool = False) -> None:
        self._address = address
        self._redis = redis
        self._keeps = kept
        self._kept: Connection | None = None

    def call(self, *command: str | int) -> Any:
        """The answer to one command; raises NoAnswer or Refused."""
        return self.batch([command])[0]

    def batch(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """The answers to commands sent in one round trip; raises NoAnswer or Refused."""
        host, port = self._address
        held, self._kept = self._kept, None
        connection = held or self._dial()
        try:
            try:
                answers = _asked(connection, commands)
            except Broken:
                if held is None:
                    raise
                # It was restarted since: only a new connection says whether it answers.
                connection = self._dial()
                answers = _asked(connection, commands)
        except (ResponseError, AuthenticationError, BusyLoadingError) as error:
            connection.disconnect()
            raise Refused(str(error)) from None
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise NoAnswer(f"{host}:{port}: {error}") from None
        if self._keeps:
            self._kept = connection
        else:
            connection.disconnect()
        return answers

    def _dial(self) -> Connection:
        host, port = self._address
        login = (self._redis.username, self._redis.password)
        return dial(
            self._redis, host, port, login, name="guard", connect_timeout=PATIENCE, reply_timeout=PATIENCE
        )


def _asked(connection: Connection, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    connection.connect()
    connection.send_packed_command(connection.pack_commands(commands))
    return [_text(connection.read_response()) for _ in commands]


def _text(answer: Any) -> Any:
    if isinstance(answer, list):
        return [_text(one) for one in answer]
    return answer.decode("utf-8", "surrogateescape") if isinstance(answer, bytes) else answer
