"""When a schedule is due while a clock is changed: by hand, by the table of the documentation, and as Debian's cron does it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from stillframe.compute.snapshot_policies import cron, retention

PAGE = Path(__file__).parents[4] / "docs/how-to/schedules-and-retention.md"
MINUTE = timedelta(minutes=1)
BERLIN, NEW_YORK, LORD_HOWE = (ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"))
CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),  # by half an hour
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),  # at midnight
    "America/St_Johns": ("2006-04-02T03:31", "2006-10-29T02:31"),  # one minute after midnight: a day begins twice
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),  # by two hours
    "Pacific/Apia": ("2011-12-30T10:00",),  # a whole day is left out: a correction
}
SCHEDULES = [
    f"{minute} {hour} {day}"
    for minute in ("*/15", "0", "0,30", "10-20/5")
    for hour in ("*", "*/2", "2", "1,2", "0-3", "23")
    for day in ("* * *", "* * sun")
]


def runs(schedule: str, zone: Any, start: datetime, end: datetime) -> Iterator[datetime]:
    due = retention.next_due(schedule, zone, start - MINUTE)
    while due is not None and due < end:
        yield due
        due = retention.next_due(schedule, zone, due)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "start", "due"),
    [
        ("*/15 2 * * *", BERLIN, "2026-03-28T23:00", ""),
        ("15 2 * * *", BERLIN, "2026-03-28T23:00", "03-29T01:00"),
        ("0 */2 * * *", BERLIN, "2026-03-28T23:00", "03-28T23:00 03-29T02:00 03-29T04:00"),
        ("*/30 2 * * *", BERLIN, "2026-10-24T22:00", "10-25T00:00 10-25T00:30 10-25T01:00 10-25T01:30"),
        ("0 */2 * * *", BERLIN, "2026-10-24T22:00", "10-24T22:00 10-25T00:00 10-25T01:00 10-25T03:00"),
        ("0 2 * * *", BERLIN, "2026-10-24T22:00", "10-25T00:00"),
        ("*/15 2 * * *", NEW_YORK, "2026-03-08T05:00", ""),
        ("0 2 * * *", NEW_YORK, "2026-03-08T05:00", "03-08T07:00"),
        ("0 */2 * * *", NEW_YORK, "2026-03-08T05:00", "03-08T05:00 03-08T08:00 03-08T10:00"),
        ("0 1 * * *", NEW_YORK, "2026-11-01T04:00", "11-01T05:00"),
        (
            "0 */1 * * *",
            NEW_YORK,
            "2026-11-01T04:00",
            "11-01T04:00 11-01T05:00 11-01T06:00 11-01T07:00 11-01T08:00 11-01T09:00",
        ),
        ("*/15 2 * * *", LORD_HOWE, "2026-10-03T13:30", "10-03T15:30 10-03T15:45"),
        ("15 2 * * *", LORD_HOWE, "2026-10-03T13:30", "10-03T15:30"),
        ("0 */2 * * *", LORD_HOWE, "2026-04-04T13:00", "04-04T13:00 04-04T15:30 04-04T17:30"),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T13:00", "04-04T14:45"),
        (
            "45 */1 * * *",
            LORD_HOWE,
            "2026-04-04T13:00",
            "04-04T13:45 04-04T14:45 04-04T15:15 04-04T16:15 04-04T17:15 04-04T18:15",
        ),
    ],
)
def test_the_days_on_which_a_clock_is_changed(schedule: str, zone: Any, start: str, due: str) -> None:
    """Six hours from local midnight."""
    found = list(runs(schedule, zone, at(start), at(start) + timedelta(hours=6)))
    assert found == [at(f"2026-{each}") for each in due.split()]


def test_the_page_and_the_code_say_the_same() -> None:
    text = PAGE.read_text()
    head = re.search(r"\| Schedule \| 29 March 2026, [^|]+\| 25 October 2026, [^|]+\|\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    assert head is not None
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in head[1].splitlines()]
    assert len(rows) >= 6
    for schedule, *told in rows:
        for day, shown in zip(("2026-03-29", "2026-10-25"), told, strict=True):
            start = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=BERLIN)
            end = start.replace(hour=5)
            expected = [
                datetime.fromisoformat(f"{day}T{moment}").replace(tzinfo=timezone(timedelta(hours=int(hours))))
                for moment, hours in re.findall(r"(\d\d:\d\d)\+(\d)", shown)
            ]
            assert list(runs(schedule.strip("`"), BERLIN, start, end)) == expected, (schedule, day)
            assert expected or shown == "none"


def as_cron(schedule: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    """The main loop of cron 3.0pl1 (cron.c), by the minute: ``virtual`` is its own clock, which lags behind the real one.

    ``clock`` is what the clock shows at each minute.
    """
    read = cron.parse(schedule)
    fields, wild = read.fields, read.follows_clock

    def fits(shown: datetime) -> bool:
        on_day = shown.month in fields.months and fields.match_day(shown.date())
        return on_day and shown.hour in fields.hours and shown.minute in fields.minutes

    found, virtual = [], clock[0][1] - MINUTE
    for moment, shown in clock:
        ahead = int((shown - virtual) / MINUTE)
        if ahead == 1 or not -180 < ahead <= 180:  # an ordinary minute, or a correction of the clock
            virtual, due = shown, fits(shown)
        elif ahead > 0:  # put forward: what follows the clock now, the rest for each minute left out
            missed = [virtual + number * MINUTE for number in range(1, ahead + 1)]
            virtual, due = shown, fits(shown) if wild else any(map(fits, missed))
        else:  # put back: the rest has been done
            due = wild and fits(shown)
        found += [moment] if due else []
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_as_debians_cron_does_it(name: str) -> None:
    zone = ZoneInfo(name)
    for change in map(at, CHANGES[name]):
        start, end = change - timedelta(hours=4), change + timedelta(hours=5)
        assert start.astimezone(zone).utcoffset() != end.astimezone(zone).utcoffset(), "the clock is not changed then"
        minutes = [start + number * MINUTE for number in range(9 * 60)]
        clock = [(each, each.astimezone(zone).replace(tzinfo=None)) for each in minutes]
        for schedule in SCHEDULES:
            assert list(runs(schedule, zone, start, end)) == as_cron(schedule, clock), (schedule, change)


@pytest.mark.parametrize("schedule", ["0 0 29 2 *", "30 2 L 10 *", "0 12 * * 5#1", "0 0 31 * mon"])
def test_a_rare_day_is_found(schedule: str) -> None:
    due = retention.next_due(schedule, BERLIN, at("2026-10-31T12:00"))
    assert due is not None
    assert due > at("2026-10-31T12:00")


def test_a_day_that_never_comes() -> None:
    with pytest.raises(ValueError, match="bad day-of-month"):
        retention.next_due("0 0 30 2 *", BERLIN, at("2026-01-01T00:00"))
