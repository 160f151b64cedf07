"""The read side over HTTP: JSON reads, the live feed and the page."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, Router, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from projections.live import Live
from projections.reads import Away, Reads, Unknown
from projections.views import CommandView, Envelope, Health, Readiness, SourceView
from streams.settings import Settings

MOST_COMMANDS = 500

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class ReadSide:
    """What the composition root puts into its app: `routes`; `start`, `stop` and `close` around its life."""

    def __init__(self, settings: Settings) -> None:
        self.reads = Reads(settings, name="web")
        self.live = Live(self.reads.sources)
        self.routes: list[Any] = [_reading(self.reads, self.live, settings), _open(self.reads)]

    def start(self) -> None:
        """Begin sampling for the live feed."""
        self.live.start()

    def stop(self) -> None:
        """End every live feed, at once; call it before the server waits for its clients."""
        self.live.stop()

    def close(self) -> None:
        """End what `stop` has not, and close all connections; call it when nothing is served any more."""
        self.live.stop()
        self.live.join()
        self.reads.close()


class Problem(msgspec.Struct, frozen=True):
    """What is said where a read could not be answered."""

    reason: str
    message: str


def _reading(reads: Reads, live: Live, settings: Settings) -> Router:
    """What tells about the station, and needs the token as soon as others than this machine can ask."""

    @get("/api/audio/sources", sync_to_thread=True)
    def list_sources() -> Envelope[list[SourceView]]:
        """All sources, by id, with their latest levels."""
        return reads.sources()

    @get("/api/audio/sources/{id:str}", sync_to_thread=True)
    def show_source(id: FromPath[str]) -> Envelope[SourceView]:
        """One source."""
        return reads.source(id)

    @get("/api/commands", sync_to_thread=True)
    def list_commands(
        limit: Annotated[int, QueryParameter(ge=1, le=MOST_COMMANDS)] = 50,
        source: FromQuery[str | None] = None,
    ) -> Envelope[list[CommandView]]:
        """The latest results, newest first, of one source or of all."""
        return reads.commands(limit=limit, source=source)

    @get("/api/commands/{id:str}", sync_to_thread=True)
    def show_command(id: FromPath[str]) -> Envelope[CommandView]:
        """What became of a command; 404 while no result of it is known."""
        return reads.command(id)

    @get("/api/audio/health/service", sync_to_thread=True)
    def show_health() -> Response[Health]:
        """Whether the audio service is alive: healthy 200, stale or down 503, error 500."""
        try:
            health = reads.health()
        except Exception as error:
            message = str(error) if isinstance(error, Away) else f"cannot be judged: {type(error).__name__}"
            health = Health(
                status="error", healthy=False, message=message, age_seconds=None, last_heartbeat=None
            )
        status = {"healthy": 200, "error": 500}.get(health.status, 503)
        return Response(health, status_code=status, headers={"Cache-Control": "no-store"})

    @get("/api/audio/live", sync_to_thread=False)
    def follow() -> Stream:
        """Server-sent events: `sources` with the shape of the list, or `unavailable` with a message."""
        return Stream(
            _until_closed(live),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return Router(
        path="/",
        route_handlers=[list_sources, show_source, list_commands, show_command, show_health, follow],
        guards=[] if is_loopback(settings.web.host) else [_token_guard(settings.web.token_file)],
        exception_handlers={Away: _away, Unknown: _unknown},
        cache_control=None,
    )


def _open(reads: Reads) -> Router:
    """What tells nothing about the station: probes and the page's own files."""

    @get("/healthz", sync_to_thread=False)
    def is_alive() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @get("/readyz", sync_to_thread=True)
    def is_ready() -> Response[Readiness]:
        """Reads can be answered, and from what."""
        readiness = reads.readiness()
        return Response(readiness, status_code=200 if readiness.ready else 503)

    contents = page_files()

    def page_file(name: str) -> Response[bytes]:
        return Response(
            contents[name],
            media_type=PAGE_TYPES[name.rpartition(".")[2]],
            headers={**SECURITY_HEADERS, "Cache-Control": "no-cache"},
        )

    @get("/", sync_to_thread=False, include_in_schema=False)
    def page() -> Response[bytes]:
        return page_file("index.html")

    @get("/page/{name:str}", sync_to_thread=False, include_in_schema=False)
    def page_part(name: FromPath[str]) -> Response[bytes]:
        if name not in contents:
            return Response(b"", status_code=404, media_type=MediaType.TEXT)
        return page_file(name)

    return Router(path="/", route_handlers=[is_alive, is_ready, page, page_part])


def page_files() -> dict[str, bytes]:
    """The page's own files, by name."""
    folder = files("projections") / "pages"
    found = [entry for entry in folder.iterdir() if entry.name.rpartition(".")[2] in PAGE_TYPES]
    return {entry.name: entry.read_bytes() for entry in found}


async def _until_closed(live: Live) -> AsyncIterator[bytes]:
    async for frame in live.feed():
        yield frame


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _token_guard(token_file: str) -> Any:
    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        token = Path(token_file).read_text("utf-8").strip() if token_file else ""
        given = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise NotAuthorizedException("reading needs the station's token: Authorization: Bearer …")

    return guard


def _away(request: Request[Any, Any, Any], error: Away) -> Response[Problem]:
    return Response(Problem("unreachable", str(error)), status_code=503, headers={"Retry-After": "2"})


def _unknown(request: Request[Any, Any, Any], error: Unknown) -> Response[Problem]:
    reason = "unknown_source" if error.noun == "source" else "no_result_known"
    return Response(Problem(reason, str(error)), status_code=404)
