"""Metrics as a scraper reads them, asked of the read side over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from litestar import Litestar
from litestar.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

from projections.http import ReadSide
from streams.settings import Settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.families = {family.name: family.type for family in families}
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """The sample's value; None where there is none."""
        return self.samples.get((f"tocsin_{name}", frozenset(labels.items())))

    def names(self) -> set[str]:
        """The families that have a sample, without the prefix."""
        return {name.removeprefix("tocsin_") for name, _ in self.samples}

    def of(self, *names: str) -> Samples:
        """The samples of these names, without the prefix."""
        return {key: value for key, value in self.samples.items() if key[0].removeprefix("tocsin_") in names}


@contextmanager
def scraping(settings: Settings) -> Iterator[TestClient[Litestar]]:
    """A read side of these settings, to be asked; nothing in it runs by itself."""
    side = ReadSide(settings)
    try:
        with TestClient(Litestar(side.routes, openapi_config=None)) as client:
            yield client
    finally:
        side.close()


def scraped(settings: Settings) -> Scraped:
    """One scrape of a read side made for it."""
    with scraping(settings) as client:
        response = client.get("/metrics")
        assert response.status_code == 200, response.text
        return Scraped(response.text)
