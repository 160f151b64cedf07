"""What is told to Prometheus of decoding: alerts, and whether anything is heard at all."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from projections.scrape import PostgresFacts
from streams.alerts import TESTS


def decoding(postgres: PostgresFacts | None) -> Iterator[Metric]:
    """The families of decoders and alerts; without samples where nobody could be asked."""
    alerts = CounterMetricFamily(
        "tocsin_alerts",
        "Confirmed hearings of alerts; events that nobody has a name for count as other.",
        labels=("source", "event"),
    )
    burst = GaugeMetricFamily(
        "tocsin_same_decoder_last_burst_timestamp_seconds",
        "When the source's decoder last heard a burst; no sample where it never heard one.",
        labels=("source",),
    )
    since = GaugeMetricFamily(
        "tocsin_same_decoder_listening_since_timestamp_seconds",
        "When the source was last started that had been stopped: from then on a burst is due each week.",
        labels=("source",),
    )
    for row in postgres.decoders if postgres else ():
        # Zeros for the tests: a counter that appears with its first value has not risen, for Prometheus.
        for event, count in sorted((dict.fromkeys(TESTS, 0) | row.alerts).items()):
            alerts.add_metric([row.id, event], count)
        if row.last_burst_at is not None:
            burst.add_metric([row.id], row.last_burst_at.timestamp())
        if row.since is not None:
            since.add_metric([row.id], row.since.timestamp())
    yield from (alerts, burst, since)
