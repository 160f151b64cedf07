"""Listening in: what a source sounds like now, passed on from the node that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from projections.parameters import SourceId
from projections.problems import DOCUMENTED_ONE
from projections.reads import Away, Reads, Unknown
from projections.recordings import place_of

MOST = 32
"""Listeners at once of this process; more are told that it is away."""
PATIENCE = httpx.Timeout(5.0)
"""Seconds for which a node may say nothing."""
UNKEPT = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def listening_routes(reads: Reads, stopping: Callable[[], bool]) -> list[HTTPRouteHandler]:
    """The route; whoever listens is let go as soon as the process is `stopping`."""
    places = asyncio.Semaphore(MOST)

    def place(id: str) -> tuple[str, str, str]:
        view = reads.source(id).data
        return view.node, *place_of(reads, view.node)

    async def pieces(id: str) -> AsyncIterator[bytes]:
        """The sound in pieces. Raises Unknown, Away: before the first, or never."""
        node, address, secret = await asyncio.to_thread(place, id)
        url, headers = f"http://{address}/sources/{id}", {"Authorization": f"Bearer {secret}"}
        # trust_env: a proxy in the environment is none for a node of the station.
        async with places, httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            begun = False
            try:
                async with client.stream("GET", url, headers=headers) as answer:
                    if answer.status_code == 404:
                        raise Unknown("sound of the source", id)
                    if answer.status_code != 200:
                        raise Away(f"node {node!r}, which has the source, answers {answer.status_code}")
                    async for piece in answer.aiter_raw():
                        if stopping():
                            return
                        begun = True
                        yield piece
            except httpx.HTTPError as error:
                if not begun:
                    raise Away(f"node {node!r}, which has the source, does not answer: {error}") from error

    @get("/api/audio/sources/{id:str}/sound", media_type="audio/wav", responses=DOCUMENTED_ONE)
    async def listen(id: SourceId) -> Stream:
        """What the source sounds like from now on: a WAV without an end, mono, 24 kHz, 16 bits.

        404 where it is not running; it ends some seconds after the source does.
        """
        if places.locked():
            raise Away(f"{MOST} are listening already: try again when somebody has left")
        sound = pieces(id)
        first = await anext(sound, b"")
        return Stream(_joined(first, sound), media_type="audio/wav", headers=UNKEPT)

    return [listen]


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
