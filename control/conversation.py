"""What a program says to a station, and how it understands the answers: the client library's logic, once."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import msgspec
from uuid_utils import uuid7

from control.calls import Broken, Found, Pause, Reply, Request, Steps
from streams.connection import Unreachable
from streams.messages import Answer, Durability, Outcome, canonical, new_command
from streams.names import STATION_LANE
from streams.signing import Key
from streams.submit import InDoubt, NoAnswer, Refused, signed

AT_A_TIME = 10.0
"""Seconds that one request waits for an outcome; then it is asked for by the id."""
MARGIN = 5.0
"""Seconds beyond these that an answer may take to travel."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two tries, doubling."""
PAGE = 500
"""Events asked for at once."""
Kind = TypeVar("Kind")
VERBS = {"source.start": "start", "source.stop": "stop", "source.restart": "restart"}


class Options(TypedDict, total=False):
    """What may be said of any command; as `submit` takes it."""

    lane: str
    id: str | None
    timeout: float
    expires: float
    durability: Durability | None
    if_sequence: int | None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On which terms a program speaks: with a `token`, or with a `key` that signs here for `station`."""

    token: str = ""
    key: Key | None = None
    station: str = "station"


class SourceRead(msgspec.Struct, frozen=True, kw_only=True):
    """A source as the station knows it; `settings` as they were given. Times are UTC."""

    id: str
    lane: str
    kind: str
    name: str
    settings: dict[str, Any]
    desired: str
    state: str
    reason: str | None
    since: datetime
    trouble: str | None = None


class CommandRead(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: its result is the event `seq` of `lane`."""

    id: str
    lane: str
    source: str
    type: str
    key: str
    sequence: int
    outcome: Outcome
    state: str | None
    reason: str | None
    field: str | None
    by: str | None
    detail: str | None
    seq: int


class EventRead(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands in its lane's log. Times are UTC."""

    lane: str
    seq: int
    hash: str
    at: datetime
    node: str
    type: str
    data: dict[str, Any]
    source: str = ""
    command: str | None = None


class _Fault(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    detail: str
    field: str | None = None
    id: str | None = None


class _Pace:
    """Tries until a deadline, with pauses that grow."""

    def __init__(self, timeout: float) -> None:
        self._until = time.monotonic() + timeout
        self._pause = FIRST_PAUSE

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._until - time.monotonic()

    def pause(self, wanted: float | None = None) -> Pause:
        """How long to wait before the next try."""
        pause, self._pause = wanted or self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return Pause(max(0.0, min(pause, self.left)))


def submit(
    terms: Terms,
    /,
    type: str,
    source: str = "",
    params: dict[str, Any] | None = None,
    *,
    lane: str = "",
    id: str | None = None,
    timeout: float = 10.0,
    expires: float = 60.0,
    durability: Durability | None = None,
    if_sequence: int | None = None,
) -> Steps[Answer]:
    """Submit a command and return its outcome, whatever it is; spans are in seconds.

    While the station cannot be reached the same command is sent again, which is safe. Raises Refused (it was
    not accepted), NoAnswer (accepted, no outcome yet: `wait` for it by its id), InDoubt (nobody knows
    whether it was accepted), Unreachable (it was not).
    """
    id = id or str(uuid7())
    options = {"expires": expires, "durability": durability, "if_sequence": if_sequence}
    if terms.key is not None:
        lane = lane or (yield from _home(terms, type, source))
        command = new_command(
            station=terms.station, lane=lane, source=source, type=type, params=params or {},
            key=terms.key.id, validity=timedelta(seconds=expires), id=id, durability=durability,
            if_sequence=if_sequence,
        )  # fmt: skip
        one = signed(command, terms.key)
        asked = {"request": one.raw.decode(), "signature": one.signature}
        request = _request(terms, "POST", "/api/commands", asked, id)
    else:
        method, path, body = _route(type, source, params or {})
        given = {name: value for name, value in options.items() if value is not None}
        request = _request(terms, method, path, body | given, id)
    return (yield from _insist(terms, request, id, timeout))


def start(terms: Terms, /, source: str, **options: Unpack[Options]) -> Steps[Answer]:
    """Start a source; done once its audio has been read. Options and errors as of `submit`."""
    return submit(terms, "source.start", source, **options)


def stop(terms: Terms, /, source: str, **options: Unpack[Options]) -> Steps[Answer]:
    """Stop a source. Options and errors as of `submit`."""
    return submit(terms, "source.stop", source, **options)


def restart(terms: Terms, /, source: str, **options: Unpack[Options]) -> Steps[Answer]:
    """Stop and start a source. Options and errors as of `submit`."""
    return submit(terms, "source.restart", source, **options)


def remove(terms: Terms, /, source: str, **options: Unpack[Options]) -> Steps[Answer]:
    """Stop a source and forget it. Options and errors as of `submit`."""
    return submit(terms, "source.remove", source, **options)


def add(
    terms: Terms, /, source: str, settings: dict[str, Any], *, name: str = "", **options: Any
) -> Steps[Answer]:
    """Make a source known; `settings` with their `kind`. Options and errors as of `submit`.

    Who signs here names the `lane` it will live in.
    """
    return submit(terms, "source.add", source, {"settings": settings, "name": name}, **options)


def update(
    terms: Terms,
    /,
    source: str,
    *,
    settings: dict[str, Any] | None = None,
    name: str | None = None,
    **options: Unpack[Options],
) -> Steps[Answer]:
    """Change a source: its `settings` as a whole, its `name`. Options and errors as of `submit`."""
    given = {"settings": settings, "name": name}
    params = {field: value for field, value in given.items() if value is not None}
    return submit(terms, "source.update", source, params, **options)


def wait(terms: Terms, /, id: str, *, timeout: float = 10.0) -> Steps[CommandRead]:
    """What became of the command `id`, as soon as that is known. Raises NoAnswer, Unreachable, Refused."""
    pace, away = _Pace(timeout), ""
    while True:
        try:
            reply: Reply = yield _request(terms, "GET", f"/api/commands/{quote(id, safe='')}")
        except Broken as error:
            away = str(error)
        else:
            away = "" if reply.status < 500 else f"the station answered {reply.status}"
            if reply.status == 200:
                return _data(reply, CommandRead)
            if reply.status < 500 and reply.status != 404:
                _refuse(reply)
        if pace.left <= 0:
            raise Unreachable(away, sent=True) if away else NoAnswer(id, timeout)
        yield pace.pause()


def sources(terms: Terms, /, *, timeout: float = 10.0) -> Steps[list[SourceRead]]:
    """All sources, by id. Raises Unreachable, Refused."""
    return (yield from _get(terms, "/api/audio/sources", list[SourceRead], timeout))


def source(terms: Terms, /, id: str, *, timeout: float = 10.0) -> Steps[SourceRead]:
    """One source. Raises Unreachable, Refused (`unknown_source`)."""
    return (yield from _get(terms, f"/api/audio/sources/{quote(id, safe='')}", SourceRead, timeout))


def follow(
    terms: Terms, /, lane: str, after: int = 0, *, source: str = "", type: str = "", every: float = 0.5
) -> Steps[None]:
    """The lane's events after the seq `after`, oldest first, and then each that comes; it never ends.

    `type` ending with a dot stands for all that begin so. Looks every `every` seconds, goes on by itself
    where the station was away. Raises Refused.
    """
    wanted = {name: value for name, value in (("source", source), ("type", type)) if value}
    while True:
        params: dict[str, str | int] = {"lane": lane, "after": after, "limit": PAGE, **wanted}
        try:
            reply: Reply = yield _request(terms, "GET", "/api/events", params=params)
        except Broken:
            yield Pause(LONGEST_PAUSE)
            continue
        if reply.status >= 500:
            yield Pause(LONGEST_PAUSE)
            continue
        page = _data(reply, _Page)
        for event in page.events:
            yield Found(event)
        after = page.next
        if not page.more:
            yield Pause(every)


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    events: list[EventRead]
    next: int
    more: bool


def _insist(terms: Terms, request: Request, id: str, timeout: float) -> Steps[Answer]:
    """Send it until there is an outcome, or `timeout` seconds have passed."""
    pace, doubt, away = _Pace(timeout), "", ""
    body: dict[str, Any] = msgspec.json.decode(request.body or b"{}")
    while True:
        patience = max(0.1, min(pace.left, AT_A_TIME))
        raw = canonical({**body, "timeout": patience})
        wanted: float | None = None
        try:
            reply: Reply = yield msgspec.structs.replace(request, body=raw, timeout=patience + MARGIN)
        except Broken as error:
            doubt, away = doubt or (str(error) if error.sent else ""), str(error)
        else:
            if reply.status == 202:
                doubt = away = ""
                if pace.left <= 0:
                    raise NoAnswer(id, timeout)
            elif reply.status in (429, 503):
                fault = _fault(reply)
                doubt, away = doubt or (fault.detail if fault.id else ""), fault.detail
                wanted = float(reply.headers.get("retry-after", 1))
            else:
                return _answer(reply)
        if pace.left <= 0:
            if doubt:
                raise InDoubt(id, doubt)
            raise Unreachable(f"{away}; nothing was submitted", sent=False)
        yield pace.pause(wanted)


def _home(terms: Terms, type: str, source: str) -> Steps[str]:
    if not source:
        return STATION_LANE
    if type == "source.add":
        raise ValueError("who signs a source.add names the lane it will live in: lane=")
    found = yield from _get(terms, f"/api/audio/sources/{quote(source, safe='')}", SourceRead, 10.0)
    return found.lane


def _route(type: str, source: str, params: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """How a command is submitted by its own route."""
    path = f"/api/audio/sources/{quote(source, safe='')}"
    if type in VERBS:
        return "POST", f"{path}/{VERBS[type]}", {}
    match type:
        case "source.add":
            return "POST", "/api/audio/sources", {"id": source, **params}
        case "source.update":
            return "PATCH", path, params
        case "source.remove":
            return "DELETE", path, {}
    raise ValueError(f"{type} is submitted with a key that signs here: Client(…, key=)")


def _request(
    terms: Terms,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    id: str = "",
    *,
    params: dict[str, str | int] | None = None,
) -> Request:
    headers = {"Authorization": f"Bearer {terms.token}"} if terms.token else {}
    if id:
        headers |= {"Idempotency-Key": id, "Content-Type": "application/json"}
    raw = None if body is None else canonical(body)
    return Request(method=method, path=path, params=params or {}, body=raw, headers=headers)


def _get(terms: Terms, path: str, kind: type[Kind], timeout: float) -> Steps[Kind]:
    pace = _Pace(timeout)
    while True:
        try:
            reply: Reply = yield _request(terms, "GET", path)
        except Broken as error:
            away = str(error)
        else:
            if reply.status < 500:
                return _data(reply, kind)
            away = f"the station answered {reply.status}"
        if pace.left <= 0:
            raise Unreachable(away, sent=True)
        yield pace.pause()


def _data(reply: Reply, kind: type[Kind]) -> Kind:
    """What a read found; raises Refused where it was refused."""
    if reply.status != 200:
        _refuse(reply)
    try:
        return msgspec.convert(msgspec.json.decode(reply.content)["data"], kind)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Unreachable(f"this is no answer of a station: {error}", sent=True) from None


def _answer(reply: Reply) -> Answer:
    try:
        return msgspec.convert(msgspec.json.decode(reply.content)["command"], Answer)
    except (msgspec.MsgspecError, KeyError, TypeError):
        _refuse(reply)


def _refuse(reply: Reply) -> NoReturn:
    fault = _fault(reply)
    raise Refused(fault.reason, fault.detail, fault.field)


def _fault(reply: Reply) -> _Fault:
    """Why it was refused, as writes tell it, or reads."""
    try:
        told = msgspec.json.decode(reply.content)
        if "error" in told:
            return msgspec.convert(told["error"], _Fault)
        return _Fault(reason=told["reason"], detail=told["message"], field=told.get("field"))
    except (msgspec.MsgspecError, KeyError, TypeError):
        text = reply.content[:200].decode("utf-8", "replace")
        return _Fault(reason=f"status_{reply.status}", detail=text or f"the station answered {reply.status}")
