"""When a cron schedule is due, by a clock that is set forward and back. Pure: the time is passed in.

``cronsim`` reads the fields as Debian's cron does. What a change of the clock does is done here: by the rule of Debian's
cron (cron(8) of cron 3.0pl1: "only jobs that run at a particular time, not with '*' in the hour or minute specifier, are
affected"; its entry.c looks whether the field begins with it), and by the real changes of the zone, whatever their length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from cronsim import CronSim, CronSimError

CORRECTION = timedelta(hours=3)  # a change of the clock by more than this is a correction: missed runs are not made up for
_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)
_HORIZON = 50 * 366  # days; a time that is not found within them does not exist


@dataclass(frozen=True)
class Schedule:
    """``follows_clock``: the minute or the hour begins with ``*``, so that it is due whenever the clock shows its times."""

    fields: CronSim
    follows_clock: bool

    def next_after(self, zone: tzinfo, after: datetime) -> datetime | None:
        """Returns the first time after ``after`` (aware), in UTC; None when there is none."""
        found: datetime | None = None
        try:
            start = after.astimezone(zone).date() - _DAY  # a part of yesterday may come again
            for number in range(_HORIZON):
                here = next((due for due in self._on(start + number * _DAY, zone) if due > after), None)
                if found is not None:  # a clock that is set back over midnight shows the end of a day after the next day began
                    return min(found, here or found)
                found = here
        except OverflowError:
            return found  # the calendar ends
        return found

    def _on(self, day: date, zone: tzinfo) -> Iterator[datetime]:
        """The times of a day of the zone's calendar, in order."""
        if day.month not in self.fields.months or not self.fields.match_day(day):
            return
        shown = (
            datetime.combine(day, time(hour, minute))
            for hour in sorted(self.fields.hours)
            for minute in sorted(self.fields.minutes)
        )
        midnight = datetime.combine(day, time(), zone)
        offset = midnight.utcoffset()
        if offset is not None and offset == (midnight + _DAY).replace(fold=1).utcoffset():
            yield from ((each - offset).replace(tzinfo=UTC) for each in shown)
            return
        yield from sorted({due for each in shown for due in self._on_a_day_of_change(each, zone)})

    def _on_a_day_of_change(self, shown: datetime, zone: tzinfo) -> tuple[datetime, ...]:
        """Returns when the clock shows a time: once, twice, or not at all."""
        first, second = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first == second:
            return (first,)
        if first < second:
            return (first, second) if self.follows_clock or second - first >= CORRECTION else (first,)
        # The clock was set forward past it: read by the offset before, it is too late; by the one after, too early.
        if self.follows_clock or first - second >= CORRECTION:
            return ()
        while second < first and second.astimezone(zone).replace(tzinfo=None) < shown:
            second += _MINUTE
        return (second,)


def parse(text: str) -> Schedule:
    """Raises ValueError for what is no cron expression of five fields."""
    parts = text.split()
    if len(parts) != 5:
        raise ValueError("it must have five fields: minute, hour, day of the month, month, day of the week")
    try:
        fields = CronSim(text, datetime(2000, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{str(error)[:1].lower()}{str(error)[1:]}") from error
    return Schedule(fields, parts[0].startswith("*") or parts[1].startswith("*"))
