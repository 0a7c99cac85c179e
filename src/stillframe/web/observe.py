"""/healthcheck and /metrics: open pages, made from the database, so that every process shows the same figures."""

from bisect import bisect_right
from collections.abc import Callable, Iterator

import falcon
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from stillframe.db import assisted_snapshots, finished, services
from stillframe.db.engine import Database
from stillframe.db.tables import now

Page = Callable[[falcon.Request, falcon.Response], None]
FROZEN_BUCKETS_MS = (50, 100, 200, 300, 400, 500, 750, 1000, 2000, 5000, 10000, 30000)
SILENT_AFTER_SECONDS = 60.0


class _Journal(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        with self._database.read() as connection:
            totals = finished.totals(connection)
            frozen = assisted_snapshots.frozen_ms(connection)
        counted = CounterMetricFamily(
            "stillframe_operations", "Operations by kind and outcome", labels=["service", "kind", "outcome"]
        )
        copied = CounterMetricFamily("stillframe_block_job_bytes", "Bytes copied between layers", labels=["service", "kind"])
        waiting = GaugeMetricFamily(
            "stillframe_operation_oldest_seconds", "Age of the oldest operation that has not ended", labels=["service", "kind"]
        )
        by_kind: dict[tuple[str, str], int] = {}
        ages: dict[tuple[str, str], float] = {}
        for row in totals:
            counted.add_metric([row["service"], row["kind"], row["state"]], row["amount"])
            key = (row["service"], row["kind"])
            by_kind[key] = by_kind.get(key, 0) + int(row["bytes"] or 0)
            if row["oldest"] is not None:
                ages[key] = max(ages.get(key, 0.0), (now() - row["oldest"]).total_seconds())
        for labels, amount in by_kind.items():
            copied.add_metric(list(labels), amount)
        for labels, age in ages.items():
            waiting.add_metric(list(labels), age)
        yield counted
        yield copied
        yield waiting
        yield _histogram(sorted(frozen))


def _histogram(values: list[float]) -> HistogramMetricFamily:
    """Of sorted values."""
    family = HistogramMetricFamily("stillframe_frozen_milliseconds", "How long guests were frozen, per assisted snapshot")
    buckets = [(str(float(limit)), float(bisect_right(values, limit))) for limit in FROZEN_BUCKETS_MS]
    family.add_metric([], [*buckets, ("+Inf", float(len(values)))], sum_value=sum(values))
    return family


def metrics_page(database: Database) -> Page:
    registry = CollectorRegistry()
    registry.register(_Journal(database))

    def page(_req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.data = generate_latest(registry)

    return page


def health_page(database: Database, binary: str) -> Page:
    """Answers 200 when the database answers and this service's worker was seen within a minute; else 503, which says what is
    missing."""

    def page(_req: falcon.Request, resp: falcon.Response) -> None:
        with database.read() as connection:
            rows = [row for row in services.list_all(connection) if row["binary"] == binary]
        alive = [row for row in rows if row["silent_seconds"] < SILENT_AFTER_SECONDS]
        resp.status = falcon.HTTP_200 if alive else falcon.HTTP_503
        resp.media = {"database": "ok", "worker": "ok" if alive else f"no {binary} worker was seen in the last minute"}

    return page
