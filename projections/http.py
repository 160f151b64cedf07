"""The read side over HTTP: JSON reads, the live feed and the page."""

from __future__ import annotations

import hmac
import threading
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from litestar import MediaType, Request, Response, Router, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from projections.after import WAIT
from projections.alerts import list_alerts
from projections.database import is_away
from projections.groups import group_routes, list_groups
from projections.levels import Levels
from projections.listening import listening_routes
from projections.live import Live
from projections.metrics import metrics_route
from projections.notify.route import open_episodes
from projections.overview import overview_routes
from projections.parameters import AfterEvent, CommandId, Source, SourceId, Wait, Waiters
from projections.problems import (
    DOCUMENTED_AFTER,
    DOCUMENTED_ONE_AFTER,
    HANDLERS,
    HEALTHS,
    PROTECTED,
    UNREADY,
)
from projections.reads import Reads
from projections.scrape import Scrape
from projections.screens.audit import PastReader
from projections.screens.past_states import open_conditions
from projections.screens.redis_standing import RedisStanding
from projections.screens.routes import screen_routes
from projections.screens.system import read_pulse
from projections.views import BreakersView, CommandView, Envelope, Health, Readiness, SourceView
from streams.breaker import Breakers
from streams.connection import connect
from streams.lookout import Lookout, redis_lookout
from streams.settings import Settings

MOST_COMMANDS = 500
LATEST_COMMANDS = 50
LATEST_ALERTS = 50
"""How many every page is shown as they come."""
SCREENS = ("/", "/alerts", "/commands", "/tests", "/audit", "/system", "/sources/{id:str}")
"""The addresses of the pages, which are one document: a link to any of them can be passed on."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
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

    def __init__(
        self,
        settings: Settings,
        breakers: Breakers | None = None,
        notes: Path | None = None,
        guard: Any = None,
        beside: Sequence[HTTPRouteHandler] = (),
    ) -> None:
        """`guard` lets in who may read, where others than this machine can ask: else the token does.

        `beside` are the handlers of another room, which share paths with these.
        """
        self.reads = Reads(settings, name="web", breakers=breakers)
        self._scrape = Scrape(settings, self.reads, notes)
        redis = RedisStanding(settings.redis)
        self.live = Live(
            self.reads.sources,
            {
                "commands": (1.0, lambda: self.reads.commands(limit=LATEST_COMMANDS)),
                "alerts": (1.0, lambda: list_alerts(self.reads, limit=LATEST_ALERTS)),
                "conditions": (1.0, lambda: open_conditions(self.reads)),
                "groups": (2.0, lambda: list_groups(self.reads)),
                "episodes": (2.0, lambda: open_episodes(self.reads)),
                "station": (1.0, lambda: read_pulse(self.reads, redis)),
            },
            lambda lanes, stopping: Levels(connect(settings.redis, "live"), self.reads.keys, lanes, stopping),
        )
        self._stopping = threading.Event()
        breakers = self.reads.breakers
        self._lookouts = (
            redis_lookout(breakers.redis, settings.redis, "web"),
            Lookout(breakers.postgres, self.reads.look_at_postgres, is_away),
        )
        waiters = Waiters()
        more = [
            *overview_routes(self.reads, self._scrape, waiters),
            *group_routes(self.reads, waiters),
            *screen_routes(self.reads, self._scrape, redis, PastReader(settings, self.reads)),
            *listening_routes(self.reads, self._stopping.is_set),
            metrics_route(self._scrape),
            *beside,
        ]
        guard = guard or _token_guard(settings.web.token_file)
        reading = _reading(self.reads, self.live, settings, waiters, more, guard)
        self.routes: list[Any] = [reading, _open(self.reads)]

    def start(self) -> None:
        """Begin sampling for the live feed, and looking after the servers."""
        self.live.start()
        for lookout in self._lookouts:
            lookout.start(self._stopping)

    def stop(self) -> None:
        """End every live feed and every wait, at once; call it before the server waits for its clients."""
        self._stopping.set()
        self.live.stop()
        self.reads.stop()

    def close(self) -> None:
        """End what `stop` has not, and close all connections; call it when nothing is served any more."""
        self.stop()
        self.live.join()
        self._scrape.close()
        self.reads.close()


def _reading(
    reads: Reads,
    live: Live,
    settings: Settings,
    waiters: Waiters,
    more: list[HTTPRouteHandler],
    guard: Any,
) -> Router:
    """What tells about the station, and needs the token as soon as others than this machine can ask."""

    @get("/api/audio/sources", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def list_sources(after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[list[SourceView]]:
        """All sources, by id, with their latest levels."""
        with waiters.asked(after, wait) as wanted:
            return reads.sources(wanted)

    @get("/api/audio/sources/{id:str}", sync_to_thread=True, responses=DOCUMENTED_ONE_AFTER)
    def show_source(
        id: SourceId, after: AfterEvent = None, wait: Wait = WAIT, spectrum: FromQuery[bool] = False
    ) -> Envelope[SourceView]:
        """One source. Who asks for its `spectrum` finds it in its level about a second later."""
        if spectrum:
            reads.look(id)
        with waiters.asked(after, wait) as wanted:
            return reads.source(id, wanted)

    @get("/api/commands", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def list_commands(
        limit: Annotated[int, QueryParameter(ge=1, le=MOST_COMMANDS)] = 50,
        source: Source = None,
        after: AfterEvent = None,
        wait: Wait = WAIT,
    ) -> Envelope[list[CommandView]]:
        """The latest results, newest first, of one source or of all."""
        with waiters.asked(after, wait) as wanted:
            return reads.commands(limit=limit, source=source, after=wanted)

    @get("/api/commands/{id:str}", sync_to_thread=True, responses=DOCUMENTED_ONE_AFTER)
    def show_command(id: CommandId, after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[CommandView]:
        """What became of a command; 404 while no result of it is known."""
        with waiters.asked(after, wait) as wanted:
            return reads.command(id, wanted)

    @get("/api/audio/health/service", sync_to_thread=True, responses=HEALTHS)
    def show_health() -> Response[Health]:
        """Whether the audio service is alive: healthy 200, stale or down 503, error 500."""
        health = reads.service()
        status = {"healthy": 200, "error": 500}.get(health.status, 503)
        return Response(health, status_code=status, headers={"Cache-Control": "no-store"})

    @get("/api/audio/health/breakers", sync_to_thread=True, responses=PROTECTED)
    def show_breakers() -> BreakersView:
        """How the breakers around Redis and Postgres stand, here and in the ingest nodes."""
        return reads.breaker_standings()

    @get("/api/audio/live", sync_to_thread=False, media_type="text/event-stream", responses=PROTECTED)
    def follow(request: Request[Any, Any, Any]) -> Stream:
        """Server-sent events: `sources` as the list has them, then `changed` with what changed; `levels`,
        `commands`, `alerts`, `conditions`, `groups`, `episodes`, `station`; `unavailable` where nothing can
        be read. With `Last-Event-ID` it goes on from there.
        """
        return Stream(
            _until_closed(live, request.headers.get("last-event-id", "")),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return Router(
        path="/",
        route_handlers=[
            list_sources,
            show_source,
            list_commands,
            show_command,
            show_health,
            show_breakers,
            follow,
            *more,
        ],
        guards=[] if is_loopback(settings.web.host) else [guard],
        # The empty one: on this machine nobody is asked for it.
        security=[{"bearer": []}, *([{}] if is_loopback(settings.web.host) else [])],
        exception_handlers=HANDLERS,
        cache_control=None,
    )


def _open(reads: Reads) -> Router:
    """What tells nothing about the station: probes and the page's own files."""

    @get("/healthz", sync_to_thread=False)
    def is_alive() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @get("/readyz", sync_to_thread=True, responses={503: UNREADY})
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

    @get(list(SCREENS), sync_to_thread=False, include_in_schema=False)
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


async def _until_closed(live: Live, last_event_id: str) -> AsyncIterator[bytes]:
    async for frame in live.feed(last_event_id):
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
