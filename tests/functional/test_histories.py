"""Random histories of every offline operation on real files: after every step every byte is what the model says.

``STILLFRAME_SEED`` repeats a run, ``STILLFRAME_EXAMPLES`` says how many histories there are.
"""

import os
import random
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from stillframe.db.engine import Database
from tests.support import oracle_service
from tests.support.oracle import Backup, Disk, Model, Newer, Refused, Volume
from tests.support.oracle_check import Checker
from tests.support.oracle_reader import Reader, chain
from tests.support.oracle_service import LINKED, MOST_FILES, THICK, THIN, Block, fast_directory, fresh_copy, prepare

SEED = int(os.environ["STILLFRAME_SEED"])
EXAMPLES = int(os.environ.get("STILLFRAME_EXAMPLES") or 200)
LENGTH = 50
MOST_VOLUMES = 4
MOST_BACKUPS = 4
NUMBER = st.integers(0, 7)
MORE = st.sampled_from([0, 0, 1])
PIECES = st.lists(st.tuples(st.integers(0, 29), st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=4)
Method = TypeVar("Method", bound=Callable[..., None])
Item = TypeVar("Item")


@dataclass
class Site:
    """Where histories take place, and what was seen of them."""

    directory: Path
    template: Path
    reader: Reader
    database: Database  # one for all histories: what it made of each query it need not make again
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


def pick(found: Sequence[Item], number: int) -> Item:
    return found[number % len(found)]


def step(*, when: Callable[["Histories"], object] = lambda _self: True, **arguments: Any) -> Callable[[Method], Method]:
    """A rule that takes part as long as the history is not over and ``when`` holds."""

    def decorate(method: Method) -> Method:
        made: Any = rule(**arguments)(method)  # type: ignore[no-untyped-call]
        return cast("Method", precondition(lambda self: self.left > 0 and bool(when(self)))(made))

    return decorate


class Histories(RuleBasedStateMachine):
    """Numbers choose among what is there. The model is told what was accepted, and says what must not be."""

    site: Site

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.left = 0
        self.changed = False
        fresh_copy(self.site.template, self.site.directory)
        self.site.reader.forget()
        self.block = Block(self.site.directory, self.site.database)
        self.ids = random.Random(0)
        self.patch = patch.object(uuid, "uuid4", lambda: uuid.UUID(int=self.ids.getrandbits(128), version=4))
        self.patch.start()

    @initialize(ids=st.integers(0, 1 << 16))
    def begin(self, ids: int, length: int = LENGTH) -> None:
        """``ids`` decide in what order files are named; ``length`` is the number of operations."""
        self.left = length
        self.ids.seed(ids)
        self.create(gib=1, raw=False)

    @property
    def volumes(self) -> list[str]:
        return list(self.model.volumes)

    @property
    def with_snapshots(self) -> list[str]:
        return [key for key, volume in self.model.volumes.items() if volume.snapshots]

    @property
    def seldom(self) -> bool:
        """For operations that would take the time of more interesting ones."""
        return self.left % 4 == 0

    @property
    def room(self) -> bool:
        return len(self.volumes) < MOST_VOLUMES

    def volume(self, number: int) -> tuple[str, Volume]:
        return pick(list(self.model.volumes.items()), number)

    def snapshot_of(self, number: int, snapshot: int) -> tuple[str, Volume, str]:
        key = pick(self.with_snapshots, number)
        volume = self.model.volumes[key]
        return key, volume, pick(list(volume.snapshots), snapshot)

    def do(
        self, method: str, follow: Callable[[str], None], refusals: Sequence[str] = (), must: bool | None = None, **more: Any
    ) -> bool:
        """Asks for an operation and lets the model follow. ``refusals`` are codes it may be refused with although the model
        knows no reason; ``must`` True or False says that it was computed whether it will be."""
        self.left -= 1
        self.changed = True
        answer = self.block.ask(method, **more)
        if answer.error is not None:
            self.site.refused[method] += 1
            if must is None and answer.error.code not in refusals:
                with pytest.raises(Refused):
                    follow("")
                    raise AssertionError(f"{method} was refused: {answer.error}")
            assert must is not True, f"{method} was refused: {answer.error}"
            return False
        assert must is not False, f"{method} was accepted"
        self.site.accepted[method] += 1
        try:
            follow(answer.result)
        except Refused as error:
            raise AssertionError(f"{method} was accepted, though {error}") from error
        return True

    @step(when=lambda self: self.room, gib=st.integers(1, 2), raw=st.booleans())
    def create(self, gib: int, raw: bool) -> None:
        wanted = {"size": gib, "volume_type": THICK if raw else THIN}
        format_ = "raw" if raw else "qcow2"
        self.do("create_volume", lambda new: self.model.create(new, gib, format_), must=True, **_wanted(wanted))

    @step(when=lambda self: self.volumes, volume=NUMBER, pieces=PIECES)
    def write(self, volume: int, pieces: list[tuple[int, int, int]]) -> None:
        self._write(volume, pieces)

    @step(when=lambda self: self.volumes, volume=NUMBER, pieces=PIECES)
    def write_more(self, volume: int, pieces: list[tuple[int, int, int]]) -> None:
        """As ``write``: a guest writes more often than anybody takes snapshots."""
        self._write(volume, pieces)

    @step(when=lambda self: self.volumes, volume=NUMBER, place=st.integers(0, 29), count=st.integers(1, 5))
    def write_zeros(self, volume: int, place: int, count: int) -> None:
        self._write(volume, [(place, count, 0)])

    def _write(self, number: int, pieces: list[tuple[int, int, int]]) -> None:
        self.left -= 1
        self.changed = True
        key, volume = self.volume(number)
        row = self.block.volumes()[key]
        found = self.site.reader.write(Path(row["share"], row["active_file"]), row["format"], volume.disk, pieces)
        for piece in pieces:
            self.model.write(key, *piece)
        assert volume.disk == found

    @step(when=lambda self: self.volumes, volume=NUMBER, pieces=PIECES)
    def write_and_snapshot(self, volume: int, pieces: list[tuple[int, int, int]]) -> None:
        self._write(volume, pieces)
        self._snapshot(volume)

    @step(when=lambda self: self.volumes, volume=NUMBER)
    def snapshot(self, volume: int) -> None:
        self._snapshot(volume)

    def _snapshot(self, number: int) -> None:
        key, _volume = self.volume(number)
        self.do(
            "create_snapshot",
            lambda new: self.model.snapshot(key, new),
            must=self.depth(key) < MOST_FILES,
            volume_id=key,
            **_wanted({}),
        )

    def depth(self, key: str) -> int:
        """Files in the volume's chain, without those of a volume it is linked to."""
        row = self.block.volumes()[key]
        names = [layer.name for layer in chain(Path(row["share"], row["active_file"]), row["format"])]
        return sum(key in name for name in names)

    @step(when=lambda self: self.with_snapshots, volume=NUMBER, snapshot=NUMBER)
    def delete_snapshot(self, volume: int, snapshot: int) -> None:
        key, _volume, chosen = self.snapshot_of(volume, snapshot)
        self.do("delete_snapshot", lambda _: self.model.delete_snapshots(key, [chosen]), snapshot_id=chosen)

    @step(when=lambda self: self.with_snapshots, volume=NUMBER, which=st.lists(NUMBER, min_size=1, max_size=4, unique=True))
    def delete_snapshots(self, volume: int, which: list[int]) -> None:
        key, found, _first = self.snapshot_of(volume, 0)
        chosen = list(dict.fromkeys(pick(list(found.snapshots), number) for number in which))
        self.do("delete_snapshots", lambda _: self.model.delete_snapshots(key, chosen), snapshot_ids=chosen)

    @step(
        when=lambda self: self.with_snapshots,
        volume=NUMBER,
        snapshot=NUMBER,
        newer=st.sampled_from(["keep", "remove", None]),
    )
    def revert(self, volume: int, snapshot: int, newer: Newer | None) -> None:
        key, _volume, chosen = self.snapshot_of(volume, snapshot)
        ask: dict[str, Any] = {"volume_id": key, "snapshot_id": chosen, "newer": newer}
        self.do("revert_volume", lambda _: self.model.revert(key, chosen, newer), **ask)

    @step(
        when=lambda self: self.with_snapshots and self.seldom,
        volume=NUMBER,
        snapshot=NUMBER,
        newer=st.sampled_from(["keep", "remove"]),
    )
    def revert_and_undo(self, volume: int, snapshot: int, newer: Newer) -> None:
        """At once, as somebody does who took the wrong snapshot: left to chance it comes about too seldom."""
        key, found, chosen = self.snapshot_of(volume, snapshot)
        ask: dict[str, Any] = {"volume_id": key, "snapshot_id": chosen, "newer": newer}
        if self.do("revert_volume", lambda _: self.model.revert(key, chosen, newer), **ask) and found.undo:
            self.do("undo_revert", lambda _: self.model.undo(key), must=True, volume_id=key)

    @step(when=lambda self: any(volume.undo for volume in self.model.volumes.values()), volume=NUMBER)
    def undo(self, volume: int) -> None:
        key = pick([key for key, each in self.model.volumes.items() if each.undo], volume)
        perhaps = ("conflict",) if self.model.volumes[key].written == "perhaps" else ()
        self.do("undo_revert", lambda _: self.model.undo(key), perhaps, volume_id=key)

    @step(when=lambda self: self.volumes and self.seldom, volume=NUMBER)
    def undo_without_a_revert(self, volume: int) -> None:
        key, found = self.volume(volume)
        if not found.undo:
            self.do("undo_revert", lambda _: self.model.undo(key), must=False, volume_id=key)

    @step(when=lambda self: self.volumes and self.room, volume=NUMBER, more=MORE)
    def clone(self, volume: int, more: int) -> None:
        key, found = self.volume(volume)
        gib = found.disk.gib + more
        wanted = {"source_volid": key, "size": gib if more else None}
        self.do("create_volume", lambda new: self._cloned(new, key, found.disk, gib), must=True, **_wanted(wanted))

    @step(when=lambda self: self.with_snapshots and self.room, volume=NUMBER, snapshot=NUMBER, more=MORE)
    def clone_snapshot(self, volume: int, snapshot: int, more: int) -> None:
        key, found, chosen = self.snapshot_of(volume, snapshot)
        disk = found.snapshots[chosen]
        wanted = {"snapshot_id": chosen, "size": disk.gib + more}
        follow = lambda new: self._cloned(new, key, disk, disk.gib + more, chosen)  # noqa: E731
        self.do("create_volume", follow, must=True, **_wanted(wanted))

    def _cloned(self, new: str, source: str, disk: Disk, gib: int, snapshot: str | None = None) -> None:
        """A snapshot's clone is of its volume's type, and that may be the one of linked clones."""
        if snapshot and self.model.volumes[source].linked:
            self.model.link(new, (source, snapshot), gib)
            return
        self.model.copy(new, source, disk, gib)
        self.model.volumes[new].format = self.block.volumes()[new]["format"]

    @step(when=lambda self: self.with_snapshots and self.room, volume=NUMBER, snapshot=NUMBER, more=MORE)
    def link(self, volume: int, snapshot: int, more: int) -> None:
        key, found, chosen = self.snapshot_of(volume, snapshot)
        gib = found.snapshots[chosen].gib + more
        wanted = {"snapshot_id": chosen, "size": gib, "volume_type": LINKED}
        self.do("create_volume", lambda new: self.model.link(new, (key, chosen), gib), must=True, **_wanted(wanted))

    @step(when=lambda self: self.volumes, volume=NUMBER, more=st.integers(-1, 1))
    def extend(self, volume: int, more: int) -> None:
        key, found = self.volume(volume)
        gib = found.disk.gib + more
        if 0 < gib <= 3:
            self.do("extend_volume", lambda _: self.model.extend(key, gib), volume_id=key, new_size=gib)

    @step(when=lambda self: self.volumes, volume=NUMBER, cascade=st.booleans())
    def delete(self, volume: int, cascade: bool) -> None:
        key, _volume = self.volume(volume)
        self.do("delete_volume", lambda _: self.model.delete(key, cascade), volume_id=key, cascade=cascade)

    @step()
    def look_around(self) -> None:
        self.left -= 1
        self.changed = True
        self.block.look_around()
        for key, row in self.block.volumes().items():
            volume = self.model.volumes[key]
            if volume.undo is not None and row["undo_file"] is None:
                assert volume.written != "no", f"the undo of volume {key} went although nothing was written"
                volume.undo = None
            elif volume.undo is not None:
                assert volume.written != "yes", f"the undo of volume {key} stays although it was written to"

    @step(when=lambda self: self.volumes and len(self.model.backups) < MOST_BACKUPS, volume=NUMBER, incremental=st.booleans())
    def back_up(self, volume: int, incremental: bool) -> None:
        key, found = self.volume(volume)
        refusals = ("bad_request",) * incremental + ("conflict",) * (self.depth(key) >= MOST_FILES)
        wanted = {"volume_id": key, "incremental": incremental}
        self.do("create_backup", lambda new: self._backed_up(new, key, found.disk, True), refusals, **_wanted(wanted))

    @step(
        when=lambda self: self.with_snapshots and len(self.model.backups) < MOST_BACKUPS,
        volume=NUMBER,
        snapshot=NUMBER,
        incremental=st.booleans(),
    )
    def back_up_snapshot(self, volume: int, snapshot: int, incremental: bool) -> None:
        key, found, chosen = self.snapshot_of(volume, snapshot)
        wanted = {"volume_id": key, "snapshot_id": chosen, "incremental": incremental}
        refusals = ("bad_request",) * incremental
        follow = lambda new: self._backed_up(new, key, found.snapshots[chosen], False)  # noqa: E731
        self.do("create_backup", follow, refusals, **_wanted(wanted))

    def _backed_up(self, new: str, key: str, disk: Disk, of_volume: bool) -> None:
        row = self.block.backups()[new]
        parent = row["parent_id"]
        self.site.accepted["an incremental backup"] += parent is not None
        if parent is not None and row["status"] == "available":
            before, now = self.model.backups[parent].disk.blocks, disk.blocks
            differing = {block // 2 for block in {*before, *now} if before.get(block) != now.get(block)}
            tables = 4 + 2 * disk.gib  # a table for each half GiB, at most
            assert row["object_count"] == 1 and row["bytes"] <= (len(differing) + tables) * (64 << 10)
            self.site.accepted["an increment that is bounded"] += 1
        self.model.backup(new, Backup(disk, key, parent), of_volume)

    @step(when=lambda self: self.model.backups and self.room, backup=NUMBER, more=MORE, raw=st.booleans())
    def restore(self, backup: int, more: int, raw: bool) -> None:
        key = pick(list(self.model.backups), backup)
        gib = self.model.backups[key].disk.gib + more
        wanted = {"backup_id": key, "size": gib, "volume_type": THICK if raw else THIN}

        def follow(new: str) -> None:
            self.model.restore_new(new, key, gib)
            self.model.volumes[new].format = "raw" if raw else "qcow2"

        self.do("create_volume_from_backup", follow, must=True, **_wanted(wanted))

    @step(when=lambda self: self.model.backups and self.volumes, backup=NUMBER, volume=NUMBER)
    def restore_over(self, backup: int, volume: int) -> None:
        key, (volume_id, _volume) = pick(list(self.model.backups), backup), self.volume(volume)
        ask: dict[str, Any] = {"backup_id": key, "volume_id": volume_id, "name": None}
        self.do("restore_backup", lambda _: self.model.restore_over(volume_id, key), **ask)

    @step(when=lambda self: self.model.backups, backup=NUMBER)
    def delete_backup(self, backup: int) -> None:
        key = pick(list(self.model.backups), backup)
        self.do("delete_backup", lambda _: self.model.delete_backup(key), backup_id=key)

    @step(when=lambda self: self.volumes and self.seldom, volume=NUMBER)
    def give_up_and_take_over(self, volume: int) -> None:
        key, found = self.volume(volume)
        row = self.block.volumes()[key]
        alone = not found.snapshots and not found.linked_to and not self.model.linked_volumes(key)
        single = [layer.name for layer in chain(Path(row["share"], row["active_file"]), row["format"])] == [f"volume-{key}"]
        if self.do("unmanage_volume", lambda _: None, must=alone and single, volume_id=key):
            host = f"{self.block.worker.settings.host}@{row['backend']}#{row['share']}"
            wanted = {"host": host, "source_name": f"unmanaged-{key}", "format": row["format"], "volume_type": row["backend"]}
            self.do("manage_volume", lambda new: self._taken_over(key, new), must=True, **_wanted(wanted))

    def _taken_over(self, old: str, new: str) -> None:
        found = self.model.volumes.pop(old)
        self.model.volumes[new] = Volume(found.disk, found.format)

    @rule()
    @precondition(lambda self: self.left <= 0)
    def rest(self) -> None:
        """The history is over; Hypothesis asks for further steps all the same."""

    @invariant()
    def every_byte_is_right(self) -> None:
        if self.changed:
            self.changed = False
            Checker(self.block, self.site.reader, self.model).check()

    def teardown(self) -> None:
        try:
            if self.left <= 0:
                self._end()
        finally:
            self.patch.stop()
            self.block.close()

    def _end(self) -> None:
        """Read without a memory of what was right before; cleaned; and everything deleted."""
        self.site.reader.forget()
        for _ in range(3):
            self.block.look_around()
        checker = Checker(self.block, self.site.reader, self.model)
        checker.check()
        checker.check_sound()
        assert not checker.loose()
        assert not [key for key, row in self.block.volumes().items() if row["needs_cleanup"]]
        while self.model.backups:
            for key in self.model.backups.copy():
                if all(other.parent_id != key for other in self.model.backups.values()):
                    self.do("delete_backup", lambda _, key=key: self.model.delete_backup(key), backup_id=key)  # type: ignore[misc]
        while self.model.volumes:
            for key in self.volumes:
                if not self.model.linked_volumes(key):
                    ask: dict[str, Any] = {"volume_id": key, "cascade": True}
                    self.do("delete_volume", lambda _, key=key: self.model.delete(key, True), must=True, **ask)  # type: ignore[misc]
        Checker(self.block, self.site.reader, self.model).check()


def _wanted(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"wanted": {name: value for name, value in wanted.items() if value is not None}}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with fast_directory() as directory:
        place, template = directory / "place", directory / "template"
        place.mkdir()
        prepare(place)
        shutil.copytree(place, template)
        reader = Reader()
        try:
            yield Site(place, template, reader, Database(oracle_service.settings(place).database))
        finally:
            reader.close()


@pytest.mark.timeout(3600)
def test_after_every_step_of_every_history_every_byte_is_right(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nSTILLFRAME_SEED={SEED} STILLFRAME_EXAMPLES={EXAMPLES}", flush=True)
    machine = seed(SEED)(type("Seeded", (Histories,), {"site": site}))
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=LENGTH + 1,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),  # to explain a failure too, every line of every history would be traced
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)
    print(f"accepted: {dict(site.accepted)}\nrefused: {dict(site.refused)}")


def test_a_history_that_goes_through_every_operation(site: Site) -> None:
    """Random ones may never get through a seldom one: this one leaves nothing to chance."""
    here = Site(site.directory, site.template, site.reader, site.database)
    history = type("Fixed", (Histories,), {"site": here})()
    first, second, copy = 0, 1, 2
    steps: list[tuple[str, dict[str, Any]]] = [
        ("write", {"volume": first, "pieces": [(0, 4, 1)]}),
        ("snapshot", {"volume": first}),
        ("write_and_snapshot", {"volume": first, "pieces": [(2, 4, 2)]}),
        ("write", {"volume": first, "pieces": [(4, 4, 3)]}),
        ("revert", {"volume": first, "snapshot": 0, "newer": "keep"}),
        ("undo", {"volume": first}),
        ("extend", {"volume": first, "more": 1}),
        ("back_up", {"volume": first, "incremental": False}),
        ("write_and_snapshot", {"volume": first, "pieces": [(6, 4, 4)]}),
        ("back_up", {"volume": first, "incremental": True}),
        ("write_and_snapshot", {"volume": first, "pieces": [(8, 4, 5)]}),
        ("create", {"gib": 2, "raw": False}),
        ("restore_over", {"volume": second, "backup": 0}),
        ("restore", {"backup": 1, "more": 0, "raw": True}),
        ("delete_snapshot", {"volume": first, "snapshot": 1}),
        ("delete_snapshots", {"volume": first, "which": [0, 2]}),
        ("delete_backup", {"backup": 1}),
        ("back_up_snapshot", {"volume": first, "snapshot": 0, "incremental": False}),
        ("link", {"volume": first, "snapshot": 0, "more": 0}),
        ("look_around", {}),
        ("give_up_and_take_over", {"volume": copy}),
        ("delete", {"volume": second, "cascade": False}),
    ]
    try:
        history.begin(length=len(steps), ids=0)
        history.every_byte_is_right()
        for name, arguments in steps:
            getattr(history, name)(**arguments)
            history.every_byte_is_right()
        history.left = 0
    finally:
        history.teardown()
    assert not EVERY - set(here.accepted), "operations that the history did not get through"


EVERY = {
    "create_volume",
    "create_snapshot",
    "delete_snapshot",
    "delete_snapshots",
    "revert_volume",
    "undo_revert",
    "extend_volume",
    "delete_volume",
    "create_backup",
    "an incremental backup",
    "an increment that is bounded",
    "create_volume_from_backup",
    "restore_backup",
    "delete_backup",
    "unmanage_volume",
    "manage_volume",
}
