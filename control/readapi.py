"""Reading what the station's web process tells, over HTTP."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import httpx

PATIENCE = 5.0
"""Seconds to wait for an answer."""


class Away(Exception):
    """Raised when the web process is not known, cannot be reached, or has no answer."""


class NotFound(Exception):
    """Raised when the station knows no such thing; `fresh` when it may only not know it yet."""

    def __init__(self, what: str, reason: str, *, fresh: bool = False) -> None:
        super().__init__(what)
        self.reason = reason
        self.fresh = fresh


class ReadApi:
    """A client of one web process; a context manager."""

    def __init__(self, url: str | None, token: str = "", patience: float = PATIENCE) -> None:
        if url is None:
            raise Away("the station is not up: it has noted no address")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # trust_env: a proxy in the environment is none for a station on this machine.
        self._client = httpx.Client(base_url=url, timeout=patience, headers=headers, trust_env=False)
        self.url = url

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """The envelope of a read: data, source, age_seconds, stale. Raises Away, NotFound."""
        response = self._ask("GET", path, params=params)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"the station knows no {path}", "not_found")
        if response.status_code >= 400:
            raise Away(f"{self.url}{path} answered {response.status_code}: {response.text[:200]}")
        return _object(response)

    def await_folded(self, path: str, lane: str, seq: int, seconds: int) -> bool:
        """Wait until this read contains the lane's event `seq`; whether it does in `seconds`. Raises Away."""
        asked = {"after": f"{lane}:{seq}", "wait": seconds}
        response = self._ask("GET", path, params=asked, timeout=seconds + PATIENCE)
        return response.status_code == httpx.codes.OK

    def health(self) -> dict[str, Any]:
        """The health of the audio service, whatever the status it comes with. Raises Away."""
        return _object(self._ask("GET", "/api/audio/health/service"))

    def readiness(self) -> dict[str, Any]:
        """Whether reads can be answered, and what stands still, whatever the status. Raises Away."""
        return _object(self._ask("GET", "/readyz"))

    def write(
        self, method: str, path: str, body: dict[str, Any], headers: dict[str, str], *, timeout: float
    ) -> httpx.Response:
        """The answer to a write. Raises Away."""
        return self._ask(method, path, json=body, headers=headers, timeout=timeout + PATIENCE)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Away(f"{self.url}: {error}") from error
        except httpx.InvalidURL as error:
            raise Away(f"{self.url} is no address: {error}") from error

    def __enter__(self) -> ReadApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Away(f"{response.url} did not answer with a JSON object: is it a station?")
    return found
