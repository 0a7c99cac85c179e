"""When the disks were switched, by whoever lived to tell it."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.quiesce import instant
from stillframe.compute.quiesce.instant import Instant

NOON = 1767355200.0  # 2026-01-02T12:00:00Z


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found = {"wall": NOON, "monotonic": 5.0}
    clock = SimpleNamespace(time=lambda: found["wall"], monotonic=lambda: found["monotonic"])
    monkeypatch.setattr(instant, "time", clock)
    return found


def test_the_moments_are_right_before_and_right_after_the_call_even_if_the_clock_is_set(clocks: dict[str, float]) -> None:
    def call() -> None:
        clocks["wall"] -= 3600  # set back, while the call takes 0.25 s
        clocks["monotonic"] += 0.25

    assert instant.around(call) == {"not_before": NOON, "not_after": NOON + 0.25}


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        ({"switch": {"not_before": NOON, "not_after": NOON + 0.25}}, Instant(NOON, 250.0, None)),
        (
            {"instant": {"not_before": NOON - 9}, "switch": {"not_before": NOON, "not_after": NOON + 0.25}},
            Instant(NOON, 250.0, None),
        ),
        ({"instant": {"not_before": NOON}, "switch": {"not_after": NOON + 90}}, Instant(NOON, 90_000.0, instant.DIED)),
        ({"instant": {"not_before": NOON}, "switch": {"not_after": NOON - 1}}, Instant(None, None, instant.SET_BACK)),
        ({"switch": {"not_after": NOON}}, Instant(None, None, instant.NOT_RECORDED)),
        ({"switch": {"switched": True}}, Instant(None, None, instant.NOT_RECORDED)),
        ({}, Instant(None, None, instant.NOT_RECORDED)),
    ],
)
def test_a_successor_tells_what_is_recorded_and_no_more(evidence: dict[str, Any], found: Instant) -> None:
    assert instant.known(evidence) == found


def test_snapshots_carry_the_instant_or_the_first_sight_of_the_switch() -> None:
    exact = {"switch": {"not_before": NOON, "not_after": NOON + 1}}
    assert instant.of_snapshots(exact) == "2026-01-02T12:00:00.000000"
    assert instant.of_snapshots({"switch": {"not_after": NOON}}) == instant.of_snapshots(exact)
    assert instant.of_snapshots({"switch": {"switched": True}}) is None


def test_the_rows_columns() -> None:
    columns = Instant(1767355200.5, 250.0, None).columns()
    assert columns == {
        "switched_at": datetime(2026, 1, 2, 12, 0, 0, 500_000),
        "switched_at_uncertainty_ms": 250.0,
        "switched_at_note": None,
    }
    assert Instant(None, None, "why").columns()["switched_at"] is None
