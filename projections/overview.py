"""Routes that look over the whole station: the dashboard, the latest levels, events and alerts."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from projections.after import WAIT
from projections.alerts import MOST_ALERTS, AlertView
from projections.alerts import list_alerts as listed
from projections.alerts import show_alert as shown_alert
from projections.dashboard import dashboard, shown
from projections.events import MOST_EVENTS, Filter, page
from projections.health import level_of
from projections.keys import key_routes
from projections.notify.route import episode_routes
from projections.parameters import (
    Active,
    AfterEvent,
    AfterSeq,
    AlertEvent,
    AlertId,
    Command,
    County,
    Lane,
    Source,
    Type,
    Wait,
    Waiters,
)
from projections.problems import DOCUMENTED_AFTER, DOCUMENTED_ONE, DOCUMENTED_ONE_AFTER
from projections.reads import Reads
from projections.recordings import recording_routes
from projections.scrape import Scrape
from projections.views import Dashboard, Envelope, EventPage, SourceLevel
from streams.messages import now

Limit = Annotated[int, QueryParameter(ge=1, le=MOST_EVENTS)]


def overview_routes(reads: Reads, scrape: Scrape, waiters: Waiters) -> list[HTTPRouteHandler]:
    """The routes, over what `reads` and `scrape` find."""

    @get("/api/audio/health/dashboard", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def show_dashboard(after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[Dashboard]:
        """The station at a glance: every source's score from 0 to 100 with its reasons, lanes, breakers."""
        with waiters.asked(after, wait) as wanted:
            read = reads.sources(wanted)
        found = dashboard(scrape.look(), read.data, reads.service(), reads.breaker_standings(), now())
        return shown(read, found)

    @get("/api/audio/health/metrics", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def show_levels(after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[list[SourceLevel]]:
        """The latest level of each source with its age; none where it is not of now."""
        with waiters.asked(after, wait) as wanted:
            read, at = reads.sources(wanted), now()
        away = reads.redis_away()
        return Envelope(
            data=[level_of(source, at, redis_away=away) for source in read.data],
            source=read.source,
            age_seconds=read.age_seconds,
            stale=read.stale,
        )

    @get("/api/audio/alerts", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def list_alerts(
        limit: Annotated[int, QueryParameter(ge=1, le=MOST_ALERTS)] = 50,
        source: Source = None,
        event: AlertEvent = None,
        county: County = None,
        active: Active = False,
        after: AfterEvent = None,
        wait: Wait = WAIT,
    ) -> Envelope[list[AlertView]]:
        """The alerts heard last, newest first: each once, with all who heard it."""
        with waiters.asked(after, wait) as wanted:
            return listed(
                reads, limit=limit, source=source, event=event, county=county, active=active, after=wanted
            )

    @get("/api/audio/alerts/{id:str}", sync_to_thread=True, responses=DOCUMENTED_ONE_AFTER)
    def show_alert(id: AlertId, after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[AlertView]:
        """One alert: what its header says, and every source that heard it."""
        with waiters.asked(after, wait) as wanted:
            return shown_alert(reads, id, wanted)

    @get("/api/events", sync_to_thread=True, responses=DOCUMENTED_ONE)
    def list_events(
        lane: Lane,
        after: AfterSeq = 0,
        limit: Limit = 100,
        source: Source = None,
        type: Type = None,
        command: Command = None,
    ) -> Envelope[EventPage]:
        """The events of a lane after a seq, oldest first; `next` is where to go on."""
        wanted = Filter(source=source, type=type, command=command)
        return page(reads, lane, after=after, limit=limit, wanted=wanted)

    more = [*episode_routes(reads), *recording_routes(reads, waiters), *key_routes(reads, waiters)]
    return [show_dashboard, show_levels, list_alerts, show_alert, list_events, *more]
