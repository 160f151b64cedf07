"""What the read side says over HTTP where it cannot answer, and how its documentation says so."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import NotAuthorizedException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from projections.after import Malformed, NotFolded
from projections.reads import Away, Unknown
from projections.views import Health, Readiness

RETRY_AFTER = 2
"""Seconds."""
_UNKNOWN = {"source": "unknown_source", "lane": "unknown_lane", "alert": "unknown_alert"}


class Problem(msgspec.Struct, frozen=True):
    """What is said where a read could not be answered; `field` names the parameter that is to blame."""

    reason: str
    message: str
    field: str | None = None


def _told(description: str) -> ResponseSpec:
    return ResponseSpec(Problem, generate_examples=False, description=description)


DOCUMENTED = {
    400: _told("A parameter cannot be understood; `field` names it."),
    401: _told("The token is missing or wrong, where one is needed."),
    503: _told("It can be read neither from Redis nor from Postgres now: `Retry-After`."),
}
"""What any read may answer."""
DOCUMENTED_ONE = {**DOCUMENTED, 404: _told("There is no such thing, or nothing is known of it yet.")}
_LATE = {504: _told("What `after` names was not folded in time: `Retry-After`.")}
DOCUMENTED_AFTER = {**DOCUMENTED, **_LATE}
DOCUMENTED_ONE_AFTER = {**DOCUMENTED_ONE, **_LATE}
PROTECTED = {401: DOCUMENTED[401]}
HEALTHS = {
    **PROTECTED,
    500: ResponseSpec(Health, generate_examples=False, description="It cannot be judged."),
    503: ResponseSpec(Health, generate_examples=False, description="It is stale or down."),
}
UNREADY = ResponseSpec(Readiness, generate_examples=False, description="Reads cannot be answered.")


def _away(request: Request[Any, Any, Any], error: Away) -> Response[Problem]:
    seconds = RETRY_AFTER if error.retry_in is None else max(1, math.ceil(min(error.retry_in, RETRY_AFTER)))
    return Response(
        Problem("unreachable", str(error)), status_code=503, headers={"Retry-After": str(seconds)}
    )


def _unknown(request: Request[Any, Any, Any], error: Unknown) -> Response[Problem]:
    return Response(Problem(_UNKNOWN.get(error.noun, "no_result_known"), str(error)), status_code=404)


def _not_folded(request: Request[Any, Any, Any], error: NotFolded) -> Response[Problem]:
    return Response(
        Problem("not_folded_yet", str(error), "after"), status_code=504, headers={"Retry-After": "1"}
    )


def _malformed(request: Request[Any, Any, Any], error: Malformed) -> Response[Problem]:
    return Response(Problem("malformed", str(error), error.field), status_code=400)


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    first = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    detail = str(first.get("message") or error.detail)
    return Response(Problem("malformed", detail, first.get("key")), status_code=400)


def _unauthorised(request: Request[Any, Any, Any], error: NotAuthorizedException) -> Response[Problem]:
    return Response(
        Problem("unauthorised", error.detail, "authorization"),
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )


HANDLERS: dict[Any, Any] = {
    Away: _away,
    Unknown: _unknown,
    NotFolded: _not_folded,
    Malformed: _malformed,
    ValidationException: _invalid,
    NotAuthorizedException: _unauthorised,
}
"""For Litestar: how each error is told."""
