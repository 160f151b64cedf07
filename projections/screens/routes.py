"""The routes of single screens: a source's past, the station log, the audit, what the station runs on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter

from projections.after import Malformed
from projections.parameters import Source, SourceId
from projections.problems import DOCUMENTED, DOCUMENTED_ONE, PROTECTED
from projections.reads import Reads
from projections.scrape import Scrape
from projections.screens.audit import LaneAudit, PastReader, PastState, read_lanes
from projections.screens.past_levels import MOST_HOURS, PastLevels, past_levels
from projections.screens.past_states import PastStates, past_states
from projections.screens.redis_standing import RedisStanding
from projections.screens.station_log import Reception, Which, as_csv, station_log
from projections.screens.system import System, read_system
from projections.views import Envelope
from streams.messages import now

Hours = Annotated[float, QueryParameter(gt=0, le=MOST_HOURS, description="How far back.")]
Days = Annotated[float, QueryParameter(gt=0, le=3660, description="How far back.")]
Kinds = Annotated[Which, QueryParameter(description="`tests` alone, or `all` that was received.")]
Moment = Annotated[
    str,
    QueryParameter(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|\+00:00)$",
        description="A time in UTC, as 2026-05-01T03:00:00Z.",
    ),
]
CSV = {200: ResponseSpec(str, generate_examples=False, media_type="text/csv", description="RFC 4180.")}


def screen_routes(
    reads: Reads, scrape: Scrape, redis: RedisStanding, past: PastReader
) -> list[HTTPRouteHandler]:
    """The routes, over what these find."""

    @get("/api/audio/sources/{id:str}/levels", sync_to_thread=True, responses=DOCUMENTED)
    def show_past_levels(id: SourceId, hours: Hours = 6.0) -> Envelope[PastLevels]:
        """A source's level over time: by minute up to 30 hours, else by hour."""
        return past_levels(reads, id, hours)

    @get("/api/audio/sources/{id:str}/history", sync_to_thread=True, responses=DOCUMENTED)
    def show_past_states(id: SourceId, hours: Hours = 24.0) -> Envelope[PastStates]:
        """The states a source was in, and what was wrong with it, the latest first."""
        return past_states(reads, id, hours)

    @get("/api/audio/log", sync_to_thread=True, responses=DOCUMENTED)
    def show_log(
        days: Days = 60.0, source: Source = None, kinds: Kinds = "tests"
    ) -> Envelope[list[Reception]]:
        """The station log: each test (or all) as each source received it, the latest first."""
        return station_log(reads, days=days, source=source, which=kinds)

    @get("/api/audio/log.csv", sync_to_thread=True, media_type="text/csv", responses={**DOCUMENTED, **CSV})
    def export_log(days: Days = 60.0, source: Source = None, kinds: Kinds = "tests") -> Response[str]:
        """The station log as comma-separated values, to be kept or printed."""
        read = station_log(reads, days=days, source=source, which=kinds)
        name = f"station-log-{now():%Y-%m-%d}.csv"
        return Response(
            as_csv(read.data),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @get("/api/audio/system", sync_to_thread=True, responses=PROTECTED)
    def show_system() -> Envelope[System]:
        """What the station runs on: lanes, Redis and its Sentinels, nodes and their clocks, projections."""
        return read_system(reads, scrape, redis)

    @get("/api/audit/lanes", sync_to_thread=True, responses=DOCUMENTED)
    def show_lanes() -> Envelope[list[LaneAudit]]:
        """Up to where each lane's log is archived and verified."""
        return read_lanes(reads)

    @get("/api/audit/state", sync_to_thread=True, responses=DOCUMENTED_ONE)
    def show_state(at: Moment) -> Envelope[PastState]:
        """The sources, the latest commands and the counts as they were after all that was logged by then."""
        return past.state(_moment(at))

    return [
        show_past_levels,
        show_past_states,
        show_log,
        export_log,
        show_system,
        show_lanes,
        show_state,
    ]


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise Malformed("at", f"{text!r} is no time: {error}") from None
