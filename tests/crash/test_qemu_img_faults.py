"""qemu-img killed, or refused by the disk, at every single call that changes a file; and our own code around it likewise.

For each verb and each N: the Nth changing call is the last one (KILL, TORN), fails once (EIO), or is the first of many that
find no space. At that instant every file reads as it must. Then the verb is called again as recovery does, and every byte of
every file is compared with the model, nothing is left over, and ``qemu-img check`` has nothing to say.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, temporary_name
from stillframe.errors import BadImage, StillframeError
from stillframe.host import copies, files, image_command, publish, qcow2, qemu_img
from stillframe.host.copies import Source
from tests.support.faults import Action, Died, Shim, build_shim, our_calls
from tests.support.layers import KIB, MIB, Layers
from tests.support.leaks import leaked_clusters
from tests.support.qcow2_content import content
from tests.unit.builders import VOLUME

NEW, TOKEN = base_name(VOLUME), "token"
TEMPORARY = temporary_name(VOLUME, TOKEN)
TOP = Source("top", "qcow2", 4)
ROUNDS = 2000  # no verb here makes so many calls


@dataclass(frozen=True)
class Scenario:
    """One verb on one chain.

    ``changed`` is the file it changes and that recovery repairs. ``after`` is what reads differently when it is done;
    ``unsure`` are files nobody may read until then, ``gone`` those nobody may read ever after.
    """

    name: str
    verb: Callable[[Path], None]
    changed: str
    base: str = "qcow2"
    prepare: Callable[[Layers], None] = lambda layers: layers.tower("qcow2", MIB)
    after: Callable[[Layers], dict[str, bytes]] = lambda layers: {}
    unsure: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    backing: tuple[str, str | None] | None = None

    @property
    def makes(self) -> bool:
        return self.changed == NEW


def tower(format_: str) -> Callable[[Layers], None]:
    return lambda layers: layers.tower(format_, MIB)


def commits() -> Iterator[Scenario]:
    def into(base: str, top: str = "top") -> Callable[[Layers], dict[str, bytes]]:
        return lambda layers: {base: layers.content[top]}

    yield Scenario(
        "commit-one", lambda share: qemu_img.commit(share, "top", "two", 4), "two", after=into("two"), unsure=("two",)
    )
    for format_ in ("raw", "qcow2"):
        yield Scenario(
            f"commit-range-into-{format_}",
            lambda share: qemu_img.commit(share, "top", "base", 4),
            "base",
            prepare=tower(format_),
            after=into("base"),
            unsure=("base", "one", "two"),
            gone=("one", "two"),
        )
    yield Scenario(
        "commit-under-a-child",
        lambda share: qemu_img.commit(share, "two", "base", 4),
        "base",
        after=into("base", "two"),
        unsure=("base", "one"),
        gone=("one",),
    )


def pulls() -> Iterator[Scenario]:
    yield Scenario("pull-to-one", lambda share: qemu_img.pull(share, "top", "one", "qcow2", 4), "top", backing=("top", "one"))
    yield Scenario("pull-all", lambda share: qemu_img.pull(share, "top", None, None, 4), "top", backing=("top", None))
    yield Scenario(
        "pull-to-raw",
        lambda share: qemu_img.pull(share, "two", "base", "raw", 4),
        "two",
        prepare=tower("raw"),
        backing=("two", "base"),
    )


def _merged(layers: Layers) -> None:
    """As after a commit of ``two`` into ``base``: pointing ``top`` to it changes nothing."""
    layers.tower("qcow2", MIB)
    qemu_img.commit(layers.share, "two", "base", 4)
    for name in ("base", "one"):
        layers.content[name] = content(layers.share, name, "qcow2")


def _damaged(layers: Layers) -> None:
    """The reference counts of ``top`` say that its last cluster is free: what an I/O error in a commit leaves."""
    layers.tower("qcow2", MIB)
    path = layers.share / "top"
    cluster = path.stat().st_size // (64 * KIB) - 1
    with path.open("r+b") as file:
        file.seek(2 * 64 * KIB + 2 * cluster)
        file.write(b"\0\0")


def headers() -> Iterator[Scenario]:
    yield Scenario(
        "repoint",
        lambda share: qemu_img.repoint(share, "top", "base", "qcow2"),
        "top",
        prepare=_merged,
        backing=("top", "base"),
    )
    yield Scenario("repair", lambda share: qemu_img.repair_all(share, "top", "qcow2"), "top", prepare=_damaged)
    for name, format_, prepare in (("top", "qcow2", tower("qcow2")), ("base", "raw", tower("raw"))):
        yield Scenario(
            f"resize-{name}",
            lambda share, name=name, format_=format_: qemu_img.resize(share, name, format_, 3 * MIB),  # type: ignore[misc]
            name,
            prepare=prepare,
            after=lambda layers, name=name: {name: layers.content[name].ljust(3 * MIB, b"\0")},  # type: ignore[misc]
            unsure=(name,),
        )


def makers() -> Iterator[Scenario]:
    def new(size: int, source: str | None = "top") -> Callable[[Layers], dict[str, bytes]]:
        return lambda layers: {NEW: (layers.content[source] if source else b"").ljust(size, b"\0")}

    for format_ in ("raw", "qcow2"):
        image = Image(NEW, format_, MIB)
        yield Scenario(
            f"create-{format_}",
            lambda share, image=image: publish.publish_base(share, image, TOKEN, VOLUME),  # type: ignore[misc]
            NEW,
            base=format_,
            after=new(MIB, None),
        )
        yield Scenario(
            f"copy-{format_}",
            lambda share, image=image: copies.publish_copy(share, TOP, image, TOKEN, VOLUME),  # type: ignore[misc]
            NEW,
            base=format_,
            after=new(MIB),
        )
    overlay = Image(NEW, "qcow2", 2 * MIB, "top", "qcow2")
    yield Scenario("overlay", lambda share: publish.publish_overlay(share, overlay, TOKEN, VOLUME), NEW, after=new(2 * MIB))
    above = Image(NEW, "qcow2", 2 * MIB, "one", "qcow2")
    yield Scenario("copy-above", lambda share: copies.publish_copy(share, TOP, above, TOKEN, VOLUME), NEW, after=new(2 * MIB))


SCENARIOS = (*commits(), *pulls(), *headers(), *makers())


@dataclass
class Bench:
    """A scenario's chain, built once and copied for every fault."""

    scenario: Scenario
    shim: Shim
    original: Layers
    directory: Path
    expected: dict[str, bytes] = field(default_factory=dict)
    recovered: set[bytes] = field(default_factory=set)

    def fresh(self) -> Layers:
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.original.share, self.directory)
        return replace(self.original, share=self.directory)

    def format_of(self, name: str) -> str:
        return self.scenario.base if name == NEW else self.original.formats[name]

    def check_instant(self, layers: Layers, where: str) -> None:
        """What anybody may read reads right, now; what has its name already is whole."""
        for name, wanted in self.original.content.items():
            if name not in self.scenario.unsure:
                self._check_content(layers, name, wanted, f"{where}: {name} reads wrong")
        if self.scenario.makes and (layers.share / NEW).exists():
            self._check_content(layers, NEW, self.expected[NEW], f"{where}: {NEW} was published and is not whole")

    def check_done(self, layers: Layers, where: str) -> None:
        for name, wanted in self.expected.items():
            if name not in self.scenario.gone:
                self._check_content(layers, name, wanted, f"{where}: {name} reads wrong in the end")
        if self.scenario.backing:
            name, backing = self.scenario.backing
            assert qcow2.read(layers.share, name).backing == backing, where
        assert set(os.listdir(layers.share)) == set(self.expected), where

    def _check_content(self, layers: Layers, name: str, wanted: bytes, told: str) -> None:
        """pytest would explain how two MiB differ, for minutes."""
        if content(layers.share, name, self.format_of(name)) != wanted:
            raise AssertionError(told)

    def recover(self, layers: Layers, where: str) -> None:
        """What recovery does: look at what is left, mend it, do the step again, give back what was leaked.

        Different faults often leave the same bytes: these are recovered from once."""
        left = _digest(layers.share)
        if left in self.recovered:
            return
        changed, format_ = self.scenario.changed, self.format_of(self.scenario.changed)
        if not self.scenario.makes:
            try:
                qemu_img.check(layers.share, changed, format_)
            except BadImage:
                qemu_img.repair_all(layers.share, changed, format_)
                self.check_instant(layers, f"{where}, repaired")
        self.scenario.verb(layers.share)
        qemu_img.repair_leaks(layers.share, changed, format_)
        self.check_done(layers, where)
        assert leaked_clusters(layers.share, changed, format_) == 0, where
        self.recovered.add(left)

    def give_up(self, layers: Layers, where: str) -> None:
        """Instead of doing it again: nothing remains of a file that did not get its name."""
        files.remove(layers.share, TEMPORARY)
        allowed = [set(self.original.content), set(self.expected)]
        assert set(os.listdir(layers.share)) in allowed, where


def _digest(directory: Path) -> bytes:
    """A sum of the names and bytes of all files."""
    found = hashlib.blake2b()
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        found.update(f"{path.name} {len(data)} ".encode() + data)
    return found.digest()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def benches(shim: Shim, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scenario], Bench]:
    made: dict[str, Bench] = {}

    def bench(scenario: Scenario) -> Bench:
        if scenario.name not in made:
            share = tmp_path_factory.mktemp("original")
            layers = Layers(share)
            scenario.prepare(layers)
            expected = {**layers.content, **scenario.after(layers)}
            made[scenario.name] = Bench(scenario, shim, layers, tmp_path_factory.mktemp("share") / "copy", expected)
        return made[scenario.name]

    return bench


def meet(bench: Bench, at: int, action: Action) -> bool:
    """Runs the verb with one fault, then recovers; returns whether the fault was met."""
    layers = bench.fresh()
    failed = False
    with bench.shim.injecting(at, action):
        try:
            bench.scenario.verb(layers.share)
        except (StillframeError, OSError):
            failed = True
    calls = bench.shim.calls()
    met = len(calls) >= at
    where = f"{bench.scenario.name}: {action.name} at call {at} of {len(calls)} ({calls[at - 1] if met else 'none'})"
    assert failed <= met, f"{where}: failed without a fault"
    bench.check_instant(layers, where)
    if not failed:
        bench.check_done(layers, f"{where}, told as done")
        qemu_img.check(layers.share, bench.scenario.changed, bench.format_of(bench.scenario.changed))
    if bench.scenario.makes:
        bench.give_up(layers, where)
    bench.recover(layers, where)
    return met


def cases() -> Iterator[tuple[Scenario, Action]]:
    """Half a write into a file without a name is no other case than none, so only files that are read meet TORN."""
    for scenario in SCENARIOS:
        if scenario.name == "overlay":  # made without a program
            continue
        yield from ((scenario, action) for action in (Action.KILL, Action.EIO, Action.NO_SPACE))
        if not scenario.makes:
            yield scenario, Action.TORN


@pytest.mark.parametrize(("scenario", "action"), [pytest.param(*case, id=f"{case[0].name}-{case[1].name}") for case in cases()])
def test_a_fault_at_any_call_of_qemu_img(benches: Callable[[Scenario], Bench], scenario: Scenario, action: Action) -> None:
    bench = benches(scenario)
    met = next(at for at in range(1, ROUNDS) if not meet(bench, at, action))
    assert met > 2, "no call was counted: the shim is not loaded"


@pytest.mark.parametrize("error", [None, errno.EIO], ids=["died", "EIO"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_fault_at_any_call_of_our_own(benches: Callable[[Scenario], Bench], scenario: Scenario, error: int | None) -> None:
    bench = benches(scenario)
    for at in range(1, ROUNDS):
        layers = bench.fresh()
        failed = False
        with our_calls(at, error) as calls:
            try:
                scenario.verb(layers.share)
            except (StillframeError, OSError, Died):
                failed = True
        where = f"{scenario.name}: {error} at our call {at} of {calls}"
        bench.check_instant(layers, where)
        assert failed == (len(calls) >= at), f"{where}: an error must be told"
        if scenario.makes:
            bench.give_up(layers, where)
        bench.recover(layers, where)
        if not failed:
            assert at > 1
            return


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_what_is_done_is_durable(benches: Callable[[Scenario], Bench], scenario: Scenario) -> None:
    """A file is synced after the last program that writes to it, and before it gets its name; then its directory."""
    layers = benches(scenario).fresh()
    with our_calls(0, None) as calls:
        scenario.verb(layers.share)
    synced = ["program", f"fsync {scenario.changed}"]
    named = [f"fsync {TEMPORARY}", f"link {TEMPORARY}", f"unlink {TEMPORARY}", f"fsync {layers.share.name}"]
    wanted = named if scenario.makes else synced
    assert calls[-len(wanted) :] == wanted


def test_the_default_cache_of_rebase_would_be_caught(
    benches: Callable[[Scenario], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without write-through QEMU 7.2 changes what a guest reads, and these tests see it (F2)."""
    verbs = dict(image_command._VERBS)
    for name in ("pull", "pull all"):
        words, flags = verbs[name]
        verbs[name] = (tuple(word for word in words if word not in ("-t", "writethrough")), flags)
    monkeypatch.setattr(image_command, "_VERBS", verbs)
    for action in (Action.KILL, Action.EIO, Action.NO_SPACE):
        with pytest.raises(AssertionError, match="top reads wrong"):
            for scenario in pulls():
                next(at for at in range(1, ROUNDS) if not meet(benches(scenario), at, action))
