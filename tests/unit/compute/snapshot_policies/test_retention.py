"""Which sets a policy keeps and lets go, and when its next run is due."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.compute.snapshot_policies import retention
from stillframe.compute.snapshot_policies.retention import Rules, Taken

MINE, OTHER = "mine", "other"
START = datetime(2026, 10, 24, tzinfo=UTC)  # the night after, Berlin's clock is put back
ZONES = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")]
LABELS: list[dict[str, str]] = [{}, {}, {}, {"keep": "true"}, {"keep": ""}, {"keep": "false"}, {"kept": "true"}]


def taken(hours: float, number: int = 0, **changes: Any) -> Taken:
    """An available set of the policy, so many hours after the start."""
    made = {"id": f"{hours:g}h", "at": START + timedelta(hours=hours), "status": "available", "policy_id": MINE}
    return Taken(**{"number": number, "metadata": {}, **made, **changes})


@st.composite
def histories(draw: st.DrawFn) -> list[Taken]:
    minutes = draw(st.lists(st.integers(0, 40 * 24 * 60), max_size=40))
    return [
        taken(
            minute / 60,
            number,
            id=str(number),
            status=draw(st.sampled_from(["available"] * 6 + ["error", "creating", "deleting"])),
            policy_id=draw(st.sampled_from([MINE, MINE, MINE, OTHER, None])),
            metadata=draw(st.sampled_from(LABELS)),
        )
        for number, minute in enumerate(minutes)
    ]


RULES = st.builds(Rules, *[st.integers(0, 8)] * 4)
PERIODS: dict[str, Callable[[datetime], Any]] = {
    "keep_hourly": lambda local: (local.strftime("%Y-%m-%d %H"), local.utcoffset()),
    "keep_daily": lambda local: local.strftime("%Y-%m-%d"),
    "keep_weekly": lambda local: local.strftime("%G week %V"),
}


@given(histories(), RULES, st.sampled_from(ZONES))
def test_only_available_sets_of_the_policy_that_nobody_labelled_ever_go(sets: list[Taken], rules: Rules, zone: Any) -> None:
    for gone in retention.to_delete(rules, MINE, sets, zone):
        assert (gone.policy_id, gone.status) == (MINE, "available")
        assert gone.metadata.get("keep", "false") == "false"


@given(histories(), RULES, st.sampled_from(ZONES))
def test_at_least_what_each_rule_says_stays(sets: list[Taken], rules: Rules, zone: Any) -> None:
    gone = {each.id for each in retention.to_delete(rules, MINE, sets, zone)}
    mine = sorted(
        (each for each in sets if each.policy_id == MINE and each.status == "available"),
        key=lambda each: (each.at, each.number),
    )
    stays = {each.id for each in mine} - gone
    assert {each.id for each in mine[len(mine) - rules.keep_last :]} <= stays
    for rule, period in PERIODS.items():
        newest: dict[Any, str] = {}
        for each in mine:
            newest.pop(period(each.at.astimezone(zone)), None)
            newest[period(each.at.astimezone(zone))] = each.id
        count: int = getattr(rules, rule)
        assert set(list(newest.values())[len(newest) - count if count < len(newest) else 0 :]) <= stays, rule


@given(histories(), RULES, st.sampled_from(ZONES))
def test_no_more_stays_than_the_rules_and_labels_ask_for(sets: list[Taken], rules: Rules, zone: Any) -> None:
    gone = {each.id for each in retention.to_delete(rules, MINE, sets, zone)}
    free = [each for each in sets if each.policy_id == MINE and each.status == "available" and not each.labelled]
    if rules.any:
        most = rules.keep_last + rules.keep_hourly + rules.keep_daily + rules.keep_weekly
        assert len(free) - len(gone) <= most
    else:
        assert not gone


@given(histories(), RULES, st.sampled_from(ZONES))
def test_a_second_look_after_the_deletions_finds_nothing_more(sets: list[Taken], rules: Rules, zone: Any) -> None:
    gone = {each.id for each in retention.to_delete(rules, MINE, sets, zone)}
    assert retention.to_delete(rules, MINE, [each for each in sets if each.id not in gone], zone) == []


@given(histories(), RULES, st.sampled_from(ZONES))
def test_one_deletion_at_a_time_ends_where_all_at_once_would(sets: list[Taken], rules: Rules, zone: Any) -> None:
    at_once = {each.id for each in retention.to_delete(rules, MINE, sets, zone)}
    left, one_by_one = list(sets), []
    while going := retention.to_delete(rules, MINE, left, zone):
        one_by_one.append(going[0].id)
        left = [each for each in left if each.id != going[0].id]
    assert set(one_by_one) == at_once


@given(histories(), RULES, st.sampled_from(ZONES), st.randoms())
def test_the_order_in_which_sets_are_read_does_not_matter(sets: list[Taken], rules: Rules, zone: Any, random: Any) -> None:
    mixed = list(sets)
    random.shuffle(mixed)
    assert retention.to_delete(rules, MINE, mixed, zone) == retention.to_delete(rules, MINE, sets, zone)


@given(histories(), RULES, st.sampled_from(ZONES))
def test_what_goes_goes_oldest_first(sets: list[Taken], rules: Rules, zone: Any) -> None:
    going = retention.to_delete(rules, MINE, sets, zone)
    assert going == sorted(going, key=lambda each: (each.at, each.number))


def test_the_newest_set_of_an_hour_a_day_and_a_week_is_the_one_that_stays() -> None:
    sets = [taken(hours) for hours in (0, 0.25, 0.75, 1.5, 23, 24.5, 47, 100, 170)]
    reasons = retention.kept(Rules(1, 2, 3, 4), MINE, sets, UTC)
    assert reasons == {
        "170h": ["keep_last", "keep_hourly", "keep_daily", "keep_weekly"],
        "100h": ["keep_hourly", "keep_daily"],
        "47h": ["keep_daily", "keep_weekly"],
    }
    assert [each.id for each in retention.to_delete(Rules(1, 2, 3, 4), MINE, sets, UTC)] == [
        "0h",
        "0.25h",
        "0.75h",
        "1.5h",
        "23h",
        "24.5h",
    ]


def test_days_and_hours_are_those_of_the_policys_clock() -> None:
    evening = [taken(21.5), taken(22.5)]  # 23:30 and 0:30 in Berlin, one day in Greenwich
    assert [each.id for each in retention.to_delete(Rules(keep_daily=9), MINE, evening, UTC)] == ["21.5h"]
    assert retention.to_delete(Rules(keep_daily=9), MINE, evening, ZONES[1]) == []


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    both = [taken(24.25), taken(25.25)]  # 2:15 in Berlin, before and after the clock is put back
    assert retention.to_delete(Rules(keep_hourly=9), MINE, both, ZONES[1]) == []


def test_weeks_of_one_number_in_two_years_are_two_weeks() -> None:
    sets = [taken(-24 * 364), taken(0)]  # both in week 43
    assert len({each.at.isocalendar().week for each in sets}) == 1
    assert retention.to_delete(Rules(keep_weekly=9), MINE, sets, UTC) == []


def test_a_labelled_set_stays_and_fills_its_place() -> None:
    sets = [taken(0, metadata={"keep": "for the audit"}), taken(1), taken(2), taken(3, metadata={"keep": "yes"})]
    assert [each.id for each in retention.to_delete(Rules(keep_last=2), MINE, sets, UTC)] == ["1h"]


def test_failed_sets_fill_no_place() -> None:
    sets = [taken(0), taken(1), taken(2, status="error"), taken(3, status="creating")]
    assert retention.to_delete(Rules(keep_last=2), MINE, sets, UTC) == []


def test_sets_of_one_instant_are_told_apart_by_their_number() -> None:
    sets = [taken(0, 2, id="later"), taken(0, 1, id="earlier")]
    assert [each.id for each in retention.to_delete(Rules(keep_last=1), MINE, sets, UTC)] == ["earlier"]


@pytest.mark.parametrize(
    ("metadata", "labelled"),
    [({}, False), ({"keep": "false"}, False), ({"keep": ""}, True), ({"keep": "False"}, True), ({"Keep": "true"}, False)],
)
def test_what_counts_as_a_label(metadata: dict[str, str], labelled: bool) -> None:
    assert retention.is_labelled(metadata) is labelled


@given(histories())
def test_the_oldest_free_sets_are_those_of_known_policies_only(sets: list[Taken]) -> None:
    free = retention.oldest_free([MINE], sets)
    assert [each.id for each in free] == [
        each.id
        for each in sorted(sets, key=lambda each: (each.at, each.number))
        if each.policy_id == MINE and each.status == "available" and each.metadata.get("keep", "false") == "false"
    ]


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "due"),
    [
        ("* * * * *", UTC, "2026-01-01T00:00:00", "2026-01-01T00:01:00"),
        ("* * * * *", UTC, "2026-01-01T00:00:59.5", "2026-01-01T00:01:00"),
        ("*/15 8-18 * * mon-fri", UTC, "2026-01-02T18:45:00", "2026-01-05T08:00:00"),
        ("0 3 * * *", ZONES[1], "2026-01-01T01:59:59", "2026-01-01T02:00:00"),
        ("0 0 1 * *", ZONES[2], "2026-01-01T00:00:00", "2026-01-01T05:00:00"),
        ("0 12 29 2 *", UTC, "2026-01-01T00:00:00", "2028-02-29T12:00:00"),
        ("30 2 * * *", ZONES[1], "2026-03-29T00:00:00", "2026-03-29T01:00:00"),  # the clock shows no 2:30 that night
        ("30 2 * * *", ZONES[1], "2026-10-24T22:00:00", "2026-10-25T00:30:00"),  # it shows 2:30 twice
        ("30 2 * * *", ZONES[1], "2026-10-25T00:30:00", "2026-10-26T01:30:00"),
        ("30 2 * * *", ZONES[1], "2026-10-25T01:10:00", "2026-10-26T01:30:00"),
        ("30 * * * *", ZONES[1], "2026-10-25T00:30:00", "2026-10-25T01:30:00"),
    ],
)
def test_the_next_run(schedule: str, zone: Any, after: str, due: str) -> None:
    found = retention.next_due(schedule, zone, datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule",
    ["", "x", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *",
     "5-1 * * * *", "@daily", "-1 * * * *", "0 0 30 2 *", "1,,2 * * * *", "* * * * mon#6", "\u0661 * * * *", "1.5 * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError):
        retention.next_due(schedule, UTC, START)


def test_the_end_of_the_calendar_has_no_next_run() -> None:
    assert retention.next_due("* * * * *", UTC, datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)) is None


@given(st.text(alphabet="0123456789*/,-#LWmonjan \t\u0663", max_size=128), st.sampled_from(ZONES))
def test_no_text_does_anything_but_name_a_later_time_or_be_refused(text: str, zone: Any) -> None:
    try:
        due = retention.next_due(text, zone, START)
    except ValueError:
        return
    assert due is None or due > START


FIELDS = st.tuples(
    st.sampled_from(["*", "*/7", "0", "15,45", "10-20"]),
    st.sampled_from(["*", "2", "*/6", "0-4", "23"]),
    st.sampled_from(["*", "1", "31", "L"]),
    st.sampled_from(["*", "3", "10", "JAN"]),
    st.sampled_from(["*", "SUN", "1-5", "6L"]),
)


@given(FIELDS, st.sampled_from(ZONES), st.integers(0, 400 * 24 * 3600))
def test_no_run_lies_between_two(fields: tuple[str, ...], zone: Any, seconds: int) -> None:
    schedule, after = " ".join(fields), START + timedelta(seconds=seconds)
    due = retention.next_due(schedule, zone, after)
    assert due is not None and due > after
    if zone is UTC:
        assert retention.next_due(schedule, zone, after + (due - after) / 2) == due
        assert retention.next_due(schedule, zone, due - timedelta(seconds=1)) == due
