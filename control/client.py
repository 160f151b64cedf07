"""A station from your own program: submit commands, wait for outcomes, follow events.

`Client` waits in the thread that calls it, `AsyncClient` in asyncio; both have the same methods, written
once in `control.conversation`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from control import conversation
from control.calls import Broken, Course, Found, Pause, Reply, Request, Step, Steps
from control.conversation import CommandRead, EventRead, SourceRead, Terms
from control.place import find
from streams.connection import Unreachable
from streams.messages import Answer
from streams.signing import Key
from streams.submit import InDoubt, NoAnswer, Refused

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "CommandRead",
    "EventRead",
    "InDoubt",
    "NoAnswer",
    "Refused",
    "SourceRead",
    "Unreachable",
]

P = ParamSpec("P")
R = TypeVar("R")


class _Saying(Generic[P, R]):
    """A method of both clients: the steps of a conversation, driven as each does it."""

    def __init__(self, steps: Callable[Concatenate[Terms, P], Steps[R]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, instance: None, owner: Any) -> _Saying[P, R]: ...
    @overload
    def __get__(self, instance: Client, owner: Any) -> Callable[P, R]: ...
    @overload
    def __get__(self, instance: AsyncClient, owner: Any) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: Client | AsyncClient | None, owner: Any) -> Any:
        if instance is None:
            return self
        speaker = instance

        @wraps(self._steps)
        def say(*args: P.args, **kwargs: P.kwargs) -> Any:
            return speaker._drive(self._steps(speaker._terms, *args, **kwargs))

        return say


class _Following(Generic[P]):
    """The same of what goes on for ever: each thing found is handed on."""

    def __init__(self, steps: Callable[Concatenate[Terms, P], Steps[None]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, instance: None, owner: Any) -> _Following[P]: ...
    @overload
    def __get__(self, instance: Client, owner: Any) -> Callable[P, Iterator[EventRead]]: ...
    @overload
    def __get__(self, instance: AsyncClient, owner: Any) -> Callable[P, AsyncIterator[EventRead]]: ...
    def __get__(self, instance: Client | AsyncClient | None, owner: Any) -> Any:
        if instance is None:
            return self
        speaker = instance

        @wraps(self._steps)
        def follow(*args: P.args, **kwargs: P.kwargs) -> Any:
            return speaker._each(self._steps(speaker._terms, *args, **kwargs))

        return follow


class _Station:
    """What both clients can say, and where they say it."""

    submit = _Saying(conversation.submit)
    start = _Saying(conversation.start)
    stop = _Saying(conversation.stop)
    restart = _Saying(conversation.restart)
    add = _Saying(conversation.add)
    update = _Saying(conversation.update)
    remove = _Saying(conversation.remove)
    wait = _Saying(conversation.wait)
    sources = _Saying(conversation.sources)
    source = _Saying(conversation.source)
    follow = _Following(conversation.follow)

    def __init__(
        self, url: str = "", token: str = "", *, key: Key | None = None, station: str = "station"
    ) -> None:
        """The station at `url`, with a `token`, or a `key` that signs here for the station of that id.

        Without a `url` it is the one that the command line would mean: TOCSIN_STATION, else your own, with
        its own token. Without a `token` it is the one in TOCSIN_TOKEN. Raises Unreachable where no
        station is up there.
        """
        place = find(url or None, os.environ)
        address = place.web()
        if address is None:
            raise Unreachable("the station is not up: it has noted no address", sent=False)
        token = token or os.environ.get("TOCSIN_TOKEN", "")
        if place.directory is not None and not (token or key):
            named = place.settings().web.token_file
            token = Path(named).read_text("utf-8").strip() if named else ""
        self.url = address
        self._terms = Terms(token=token, key=key, station=station)


class Client(_Station):
    """A station, spoken to from threads; a context manager."""

    def __init__(
        self, url: str = "", token: str = "", *, key: Key | None = None, station: str = "station"
    ) -> None:
        super().__init__(url, token, key=key, station=station)
        # trust_env: a proxy in the environment is none for a station on this machine.
        self._http = httpx.Client(base_url=self.url, trust_env=False)

    def _drive(self, steps: Steps[R]) -> R:
        course = Course(steps)
        while not course.done:
            course.go_on(self._done(course.step))
        return course.result

    def _each(self, steps: Steps[None]) -> Iterator[Any]:
        course = Course(steps)
        while not course.done:
            if isinstance(course.step, Found):
                yield course.step.value
            course.go_on(self._done(course.step))

    def _done(self, step: Step) -> Reply | Broken | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
        if not isinstance(step, Request):
            return None
        try:
            return _reply(self._http.request(**_asked(step)))
        except httpx.HTTPError as error:
            return _broken(error)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Station):
    """A station, spoken to from asyncio; an asynchronous context manager."""

    def __init__(
        self, url: str = "", token: str = "", *, key: Key | None = None, station: str = "station"
    ) -> None:
        super().__init__(url, token, key=key, station=station)
        self._http = httpx.AsyncClient(base_url=self.url, trust_env=False)

    async def _drive(self, steps: Steps[R]) -> R:
        course = Course(steps)
        while not course.done:
            course.go_on(await self._done(course.step))
        return course.result

    async def _each(self, steps: Steps[None]) -> AsyncIterator[Any]:
        course = Course(steps)
        while not course.done:
            if isinstance(course.step, Found):
                yield course.step.value
            course.go_on(await self._done(course.step))

    async def _done(self, step: Step) -> Reply | Broken | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        if not isinstance(step, Request):
            return None
        try:
            return _reply(await self._http.request(**_asked(step)))
        except httpx.HTTPError as error:
            return _broken(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _asked(step: Request) -> dict[str, Any]:
    return {
        "method": step.method,
        "url": step.path,
        "params": dict(step.params),
        "content": step.body,
        "headers": dict(step.headers),
        "timeout": step.timeout,
    }


def _reply(response: httpx.Response) -> Reply:
    return Reply(status=response.status_code, headers=response.headers, content=response.content)


def _broken(error: httpx.HTTPError) -> Broken:
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
    return Broken(str(error) or type(error).__name__, sent=not unsent)
