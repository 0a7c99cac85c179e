"""Which filesystems lie on which disk, which cannot be frozen, and what may be said of each disk."""

import pytest

from stillframe.compute.quiesce import filesystems
from stillframe.compute.quiesce.filesystems import NO_FILESYSTEM, UNFREEZABLE, Filesystem, Layout

ROOT = Filesystem(("/",), "ext4", ("vda",))
EFI = Filesystem(("/boot/efi",), "vfat", ("vda",))
DATA = Filesystem(("/data",), "xfs", ("vdb",))
OTHER = Filesystem(("/other",), "ext4", ("vdc",))
SNAP = Filesystem(("/snap/core",), "squashfs", ())
LOOP = Filesystem(("/loop",), "ext4", ())
STICK = Filesystem(("/stick",), "vfat", ())
STRANGE = Filesystem(("/new",), "newfs", ("vdb",))


def levels(layout: Layout, count: int) -> dict[str, bool | None]:
    """Which disks are wholly frozen when the agent counts so many; None: nobody knows."""
    unfrozen = layout.passed_over(count)
    judged = layout.judged(unfrozen or ())
    return {target: disk.reason is None if unfrozen is not None else None for target, disk in judged.items()}


def test_what_is_mounted_twice_is_one_filesystem_with_every_point() -> None:
    mounted = [("/", "vda1", "EXT4", ("vda",)), ("/data", "vdb", "xfs", ("vdb",)), ("/srv", "vda1", "ext4", ("vda",))]
    assert filesystems.merged(mounted) == (Filesystem(("/", "/srv"), "ext4", ("vda",)), DATA)


@pytest.mark.parametrize(
    ("found", "frozen", "wanted"),
    [
        ((ROOT, DATA), 2, {"vda": True, "vdb": True}),
        ((ROOT, EFI, DATA), 2, {"vda": False, "vdb": True}),  # a disk with such a filesystem besides others
        ((ROOT, DATA, LOOP, SNAP), 3, {"vda": True, "vdb": True}),  # read-only ones have nothing to write
        ((ROOT, DATA, STICK), 2, {"vda": False, "vdb": False}),  # it may lie on any disk
        ((ROOT, STRANGE), 2, {"vda": True, "vdb": True}),
        ((ROOT, STRANGE), 1, {"vda": True, "vdb": False}),  # the count tells that it was passed over
        ((ROOT, DATA), 1, {"vda": None, "vdb": None}),
        ((ROOT, STRANGE, DATA), 1, {"vda": None, "vdb": None}),
        ((ROOT, OTHER), 1, {"vda": True, "vdb": False}),
    ],
)
def test_each_disk_is_judged_by_the_filesystems_on_it(
    found: tuple[Filesystem, ...], frozen: int, wanted: dict[str, bool | None]
) -> None:
    assert levels(Layout(("vda", "vdb"), found), frozen) == wanted


def test_where_all_are_frozen_all_are_counted_but_only_the_sets_own_matter() -> None:
    far = Filesystem(("/far",), "newfs", ("vdc",))
    layout = Layout(("vda",), (ROOT, OTHER, far), by_point=False)
    assert (layout.mountpoints, layout.to_freeze) == (None, (ROOT, OTHER, far))
    assert levels(layout, 3) == levels(layout, 2) == {"vda": True}
    assert levels(layout, 1) == {"vda": None}


def test_only_what_concerns_the_set_is_frozen_by_name() -> None:
    layout = Layout(("vda",), (ROOT, EFI, DATA, LOOP, SNAP, Filesystem(("/srv", "/mnt"), "ext4", ("vda",))))
    assert layout.mountpoints == ("/", "/loop", "/srv")


@pytest.mark.parametrize("kind", sorted(UNFREEZABLE))
def test_what_is_known_not_to_freeze_is_named_with_its_disk_and_what_to_do(kind: str) -> None:
    layout = Layout(("vda",), (ROOT, Filesystem(("/x", "/y"), kind, ("vda",))))
    told = str(layout.not_allowed)
    assert told.startswith(f"the {kind} filesystem /x on vda cannot be frozen; ")
    assert "allow_unfreezable" in told
    assert "quiesce=preferred" in told
    for name in (kind, "/x", "/y"):
        assert Layout(layout.targets, layout.found, allowed=("/z", name)).not_allowed is None
    assert Layout(("vdb",), layout.found).not_allowed is None


def test_experience_is_remembered_for_types_that_are_not_known_and_for_no_others() -> None:
    told = frozenset({str(STRANGE), str(ROOT)})
    layout = Layout(("vda", "vdb"), (ROOT, STRANGE), experience=told)
    assert (layout.left, layout.to_freeze) == ((STRANGE,), (ROOT,))
    assert "newfs filesystem /new on vdb" in str(layout.not_allowed)
    assert levels(layout, 1) == {"vda": True, "vdb": False}


def test_a_disk_that_only_a_filesystem_nobody_can_place_might_lie_on_has_none() -> None:
    (disk,) = Layout(("vdz",), (LOOP,)).judged(()).values()
    assert (disk.frozen, disk.reason) == ((), NO_FILESYSTEM)


def test_a_guests_words_are_cut_and_cleaned() -> None:
    name = str(Filesystem(("/\x1b[2J" + "x" * 500,), "vfat", ()))
    assert name.startswith("vfat filesystem /?[2J")
    assert len(name) < 130
    many = tuple(Filesystem((f"/{number}",), "vfat", ("vda",)) for number in range(200))
    (disk,) = Layout(("vda",), many).judged(many).values()
    assert len(str(disk.reason)) < 1024
    assert "and 195 more" in str(disk.reason)
    assert len(disk.document()["not_frozen"]) == filesystems.MOST_LISTED
