"""Pure: which sets a policy keeps, which it deletes, and when its next run is due. No I/O; the time is passed in."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from stillframe.compute.snapshot_policies import cron

KEEP = "keep"  # the metadata key that protects a set


Period = Callable[["Taken", tzinfo], Hashable]


@dataclass(frozen=True)
class Rules:
    """How many sets are kept: the newest of all, and the newest of an hour, a day, a week. 0 switches a rule off."""

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0

    @property
    def any(self) -> bool:
        """Tells whether any rule keeps a number of sets: a policy without one deletes nothing."""
        return any((self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly))


@dataclass(frozen=True)
class Taken:
    """One set as it is recorded. ``at`` is aware; ``number`` grows with every set; ``policy_id`` says who made it."""

    id: str
    at: datetime
    number: int
    status: str
    policy_id: str | None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Tells whether a person labelled the set to be kept."""
        return is_labelled(self.metadata)


def is_labelled(metadata: dict[str, str]) -> bool:
    """Tells whether a set with that metadata is never deleted by a policy: key ``keep``, any value but "false"."""
    return metadata.get(KEEP, "false") != "false"


def kept(rules: Rules, policy_id: str, sets: Iterable[Taken], zone: tzinfo) -> dict[str, list[str]]:
    """Returns, by id, why each available set of the policy is kept; what is not in it may go.

    As ``restic forget`` has it: ``keep_last`` n keeps the n newest; ``keep_hourly`` n looks at the n newest hours in which
    there is a set at all, and keeps the newest set of each; days and weeks (Monday to Sunday) likewise, all by the clock of
    ``zone``. The rules do not exclude each other. Labelled sets are kept and fill the places of the rules as others do.
    Without any rule everything is kept.
    """
    mine = _of_policy(policy_id, sets)
    reasons: dict[str, list[str]] = {each.id: [] for each in mine}
    for each in mine:
        if each.labelled:
            reasons[each.id].append("labelled")
        if not rules.any:
            reasons[each.id].append("no rule")
    for name, period in _PERIODS.items():
        for set_id in _newest_of_each(mine, getattr(rules, name), zone, period):
            reasons[set_id].append(name)
    return {set_id: why for set_id, why in reasons.items() if why}


def to_delete(rules: Rules, policy_id: str, sets: Iterable[Taken], zone: tzinfo) -> list[Taken]:
    """Returns the sets that the policy no longer keeps, oldest first: only available ones that it made, that nobody labelled,
    and that no rule keeps. What failed, is being made or is being deleted neither counts nor goes."""
    mine = _of_policy(policy_id, sets)
    staying = kept(rules, policy_id, mine, zone)
    return [each for each in reversed(mine) if each.id not in staying]


def oldest_free(policies: Iterable[str], sets: Iterable[Taken]) -> list[Taken]:
    """Returns the available sets that one of the policies made and nobody labelled, oldest first, whatever the rules say."""
    known = set(policies)
    free = [each for each in sets if each.policy_id in known and each.status == "available" and not each.labelled]
    return sorted(free, key=_age)


def _of_policy(policy_id: str, sets: Iterable[Taken]) -> list[Taken]:
    """The policy's available sets, newest first."""
    mine = [each for each in sets if each.policy_id == policy_id and each.status == "available"]
    return sorted(mine, key=_age, reverse=True)


def _age(each: Taken) -> tuple[datetime, int]:
    return each.at, each.number


def _newest_of_each(newest_first: Sequence[Taken], count: int, zone: tzinfo, period: Period) -> list[str]:
    """Returns the newest set of each of the ``count`` newest periods that have one."""
    found: dict[Hashable, str] = {}
    for each in newest_first:
        if len(found) == count:
            break
        found.setdefault(period(each, zone), each.id)
    return list(found.values())


def _hour(each: Taken, zone: tzinfo) -> Hashable:
    """With the offset: the hour that the clock shows twice in autumn is two hours."""
    local = each.at.astimezone(zone)
    return local.date(), local.hour, local.utcoffset()


_PERIODS: dict[str, Period] = {
    "keep_last": lambda each, _zone: each.id,
    "keep_hourly": _hour,
    "keep_daily": lambda each, zone: each.at.astimezone(zone).date(),
    "keep_weekly": lambda each, zone: each.at.astimezone(zone).isocalendar()[:2],
}


def next_due(schedule: str, zone: tzinfo, after: datetime) -> datetime | None:
    """Returns the first time strictly after ``after`` that the cron expression names, in UTC; None when there is none.

    ``schedule`` has the five fields of cron by the clock of ``zone``; see ``cron`` for what a change of the clock does. Raises
    ValueError for what is no such expression.
    """
    return cron.parse(schedule).next_after(zone, after)
