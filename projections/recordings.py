"""Reading recordings: what evidence there is, and its sound, fetched from the node that has it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import httpx
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from redis.exceptions import ResponseError
from sqlalchemy import Connection, desc, select

from projections.after import WAIT, After
from projections.folds.recordings import NAME, RecordingRow
from projections.parameters import AfterEvent, Source, Wait, Waiters
from projections.problems import DOCUMENTED_AFTER, DOCUMENTED_ONE, DOCUMENTED_ONE_AFTER
from projections.reads import Away, Reads, Unknown, folded_at
from projections.rows import columns, structs
from projections.tables import recordings as table
from projections.views import Envelope, envelope
from streams.connection import Unreachable
from streams.messages import now

MOST_RECORDINGS = 500
TIMEOUT = 10.0
"""Seconds to wait for a node to say anything."""
PASSED_ON = ("content-type", "content-length", "content-range", "accept-ranges")
"""What a node says of the sound that is the listener's to know."""

RecordingId = Annotated[
    str, PathParameter(pattern=r"^[0-9a-f-]{36}$", description="The recording's id, as the list has it.")
]


class RecordingView(RecordingRow, frozen=True, kw_only=True):
    """A recording, and the lane it was logged in."""

    lane: str


def list_recordings(
    reads: Reads, *, limit: int, source: str | None = None, after: After | None = None
) -> Envelope[list[RecordingView]]:
    """The latest recordings, newest first; of one source or of all. Raises Away, NotFolded."""
    wanted = [] if source is None else [table.c.source == source]

    def ask(connection: Connection) -> tuple[list[RecordingView], datetime | None]:
        newest = select(*columns(table, RecordingView)).where(*wanted)
        newest = newest.order_by(desc(table.c.begun_at), table.c.id).limit(limit)
        found: list[Any] = list(connection.execute(newest))
        return list(structs(table, RecordingView, found)), folded_at(connection, NAME)

    views, as_of = reads.database(ask, after)
    return envelope(views, "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def show_recording(reads: Reads, id: str, after: After | None = None) -> Envelope[RecordingView]:
    """One recording. Raises Unknown, Away, NotFolded."""

    def ask(connection: Connection) -> tuple[list[RecordingView], datetime | None]:
        found: list[Any] = list(
            connection.execute(select(*columns(table, RecordingView)).where(table.c.id == id))
        )
        return list(structs(table, RecordingView, found)), folded_at(connection, NAME)

    rows, as_of = reads.database(ask, after)
    if not rows:
        raise Unknown("recording", id)
    return envelope(rows[0], "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def place_of(reads: Reads, node: str) -> tuple[str, str]:
    """Where the node serves its recordings, and the pass for it. Raises Away."""
    try:
        with reads.links.borrow() as link:
            address, secret = link.call("HMGET", reads.keys.node(node), "address", "pass")
    except (Unreachable, ResponseError) as error:
        raise Away(f"nobody knows where node {node!r} serves its recordings: {error}") from error
    if not address or not secret:
        raise Away(f"node {node!r}, which has the recording, is not heard, or serves none")
    return address.decode(), secret.decode()


def recording_routes(reads: Reads, waiters: Waiters) -> list[HTTPRouteHandler]:
    """The routes, over what `reads` finds."""

    @get("/api/audio/recordings", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def list_all(
        limit: Annotated[int, QueryParameter(ge=1, le=MOST_RECORDINGS)] = 50,
        source: Source = None,
        after: AfterEvent = None,
        wait: Wait = WAIT,
    ) -> Envelope[list[RecordingView]]:
        """The latest recordings, newest first, of one source or of all."""
        with waiters.asked(after, wait) as wanted:
            return list_recordings(reads, limit=limit, source=source, after=wanted)

    @get("/api/audio/recordings/{id:str}", sync_to_thread=True, responses=DOCUMENTED_ONE_AFTER)
    def show(id: RecordingId, after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[RecordingView]:
        """One recording: what it holds, its hash, and which node has it."""
        with waiters.asked(after, wait) as wanted:
            return show_recording(reads, id, wanted)

    @get("/api/audio/recordings/{id:str}/audio", sync_to_thread=True, responses=DOCUMENTED_ONE)
    def listen(id: RecordingId, request: Request[Any, Any, Any]) -> Response[Any] | Stream:
        """The recording's sound, from the node that has it; a part of it by `Range`."""
        view = show_recording(reads, id).data
        if view.state != "finished":
            raise Unknown("sound of the recording", id)
        address, secret = place_of(reads, view.node)
        headers = {"Authorization": f"Bearer {secret}"}
        if wanted := request.headers.get("range"):
            headers["Range"] = wanted
        return _fetched(f"http://{address}/recordings/{id}", headers, view)

    return [list_all, show, listen]


def _fetched(url: str, headers: dict[str, str], view: RecordingView) -> Response[Any] | Stream:
    # trust_env: a proxy in the environment is none for a node of the station.
    client = httpx.Client(timeout=TIMEOUT, trust_env=False)
    try:
        answer = client.send(client.build_request("GET", url, headers=headers), stream=True)
    except httpx.HTTPError as error:
        client.close()
        raise Away(f"node {view.node!r}, which has the recording, does not answer: {error}") from error
    if answer.status_code == 404:
        _end(answer, client)
        raise Unknown("file of the recording", view.id)
    if answer.status_code == 416:
        _end(answer, client)
        return Response(None, status_code=416)
    if answer.status_code not in (200, 206):
        status = answer.status_code
        _end(answer, client)
        raise Away(f"node {view.node!r}, which has the recording, answers {status}")

    def pieces() -> Iterator[bytes]:
        try:
            yield from answer.iter_raw()
        finally:
            _end(answer, client)

    kind = answer.headers.get("content-type", "audio/flac")
    passed = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
    name = (view.file or view.id).rpartition("/")[2]
    passed |= {"Content-Disposition": f'inline; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    passed.pop("content-type", None)
    return Stream(pieces(), status_code=answer.status_code, media_type=kind, headers=passed)


def _end(answer: httpx.Response, client: httpx.Client) -> None:
    answer.close()
    client.close()
