"""What must hold on a real NFS mount, and can be seen nowhere else. Runs inside the NFS machine, as its root.

``python -m tests.support.nfs_checks`` prints one line of JSON for each check: its name, and null or what went wrong.
``tests/functional/test_nfs.py`` reads them. What every kind of share must do is in ``driver_suite``, of which a few checks
follow here; ``make test-nfs`` runs all of them.
"""

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.errors import BadConfiguration, HostCommandFailed, ShareUnavailable
from stillframe.host import files, mounts, probe, qemu_img, workdir
from stillframe.host.copies import Source
from stillframe.host.probe import Prober
from stillframe.volumes.storage.drivers import markers, nfs
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.support.driver_suite.__main__ import quickly
from tests.support.driver_suite.bench import Check, clean, open_bench
from tests.support.layers import opened
from tests.support.mounted import is_mounted
from tests.support.nfs_inside import BASE, POINT, SQUASHED_TO_SERVICE, export
from tests.support.nfs_vm import EXPORT, SERVICE_UID, SHARE_GID
from tests.support.oracle_reader import Reader

VOLUME = "11111111-1111-4111-8111-111111111111"
OVERLAY = names.overlay_name(VOLUME, "22222222-2222-4222-8222-222222222222")
COPY = names.base_name("33333333-3333-4333-8333-333333333333")
BASE_FILE = names.base_name(VOLUME)
MIB = 1 << 20
HYPERVISOR_UID, STRANGER = 901, (902, 902)
SERVICE = (SERVICE_UID, SHARE_GID)
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def by_service(function: Callable[[], None]) -> Callable[[], None]:
    """A check that the service's own user does, without root."""

    def switched() -> None:
        as_user(SERVICE, function)

    CHECKS[function.__name__] = switched
    return function


def as_user(who: tuple[int, int], function: Callable[[], None]) -> None:
    """Runs a function as (uid, gid) in a process of its own. Raises AssertionError with what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        problem = ""
        try:
            os.setgroups([])
            os.setresgid(who[1], who[1], who[1])
            os.setresuid(who[0], who[0], who[0])
            function()
        except BaseException:
            problem = traceback.format_exc()
        os.write(writer, problem.encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        problem = answer.read()
    os.waitpid(child, 0)
    assert not problem, problem


def share() -> DirectoryShare:
    return DirectoryShare(POINT, markers.prepare(POINT), 0, prober=Prober(POINT, fresh_for=0.0))


@check
def a_real_nfs_4_2_mount_is_in_place_with_our_options() -> None:
    found = mounts.find(POINT)
    assert found is not None
    assert (found.fstype, found.source) == ("nfs4", EXPORT)
    assert {"vers=4.2", "hard", "nosuid", "nodev", "noexec", "local_lock=none"} <= found.options, found.options
    assert is_mounted(POINT, "nfs", EXPORT)
    assert not is_mounted(POINT, "glusterfs", EXPORT)


@check
def root_is_squashed_and_the_directory_refuses_it() -> None:
    for touch in (lambda: os.listdir(POINT), lambda: (POINT / "x").write_text("")):
        try:
            touch()
        except PermissionError:
            continue
        raise AssertionError("root may do what nobody may not")
    expect(BadConfiguration, "with root_squash even root counts as nobody", lambda: nfs.prepare(Export(EXPORT), BASE))


@by_service
def a_mounted_share_is_prepared_without_root() -> None:
    assert os.geteuid() == SERVICE_UID
    assert nfs.prepare(Export(EXPORT, nfs.DEFAULT_OPTIONS), BASE) == POINT
    share().probe()


@check
def a_soft_mount_is_refused() -> None:
    point = mounts.mount_point(BASE / "soft", EXPORT)
    mounts.mount("nfs", EXPORT, point, ("soft", "vers=4.1", "nosharecache"))
    try:
        found = mounts.find(point)
        assert found is not None and "vers=4.1" in found.options, found
        expect(BadConfiguration, "with the option soft", lambda: nfs.prepare(Export(EXPORT), BASE / "soft"))
    finally:
        mounts.unmount(point)
    assert mounts.find(point) is None


@check
def an_export_that_is_not_there_is_told() -> None:
    point = BASE / "none"
    expect(ShareUnavailable, "No such file or directory", lambda: mounts.mount("nfs", "127.0.0.1:/none", point, ("vers=4.2",)))
    assert mounts.find(point) is None


@by_service
def an_open_directory_is_refused() -> None:
    POINT.chmod(0o2777)
    try:
        expect(BadConfiguration, "everybody may write", lambda: probe.refuse_if_open(POINT))
    finally:
        POINT.chmod(0o2770)
    probe.refuse_if_open(POINT)


@by_service
def images_are_made_written_merged_and_copied() -> None:
    place = share()
    place.create(VOLUME, Image(BASE_FILE, "qcow2", 64 * MIB), "1")
    write(BASE_FILE, 1, 4, 0x11)
    place.create_overlay(VOLUME, Image(OVERLAY, "qcow2", 64 * MIB, BASE_FILE, "qcow2"), "2")
    write(OVERLAY, 3, 4, 0x22)
    expected = {1: 0x11, 2: 0x11, 3: 0x22, 6: 0x22, 7: 0, 0: 0}
    reads(OVERLAY, expected)
    place.copy(names.parse(COPY)[0], Source(OVERLAY, "qcow2", 2), Image(COPY, "qcow2", 64 * MIB), "3")  # type: ignore[index]
    place.commit(VOLUME, OVERLAY, BASE_FILE)
    place.remove(VOLUME, OVERLAY)
    for name in (BASE_FILE, COPY):
        reads(name, expected)
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", name], cwd=POINT, check=True)
    assert set(files.listing(POINT)) == {".share-id", BASE_FILE, COPY}


@by_service
def every_file_is_for_the_service_and_its_group_only() -> None:
    assert stat.S_IMODE(POINT.stat().st_mode) == 0o2770
    working = POINT / ".stillframe"
    assert stat.S_IMODE(working.stat().st_mode) & 0o777 == 0o700
    for path in (each for each in POINT.iterdir() if each != working):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == SERVICE, path
        assert stat.S_IMODE(found.st_mode) == 0o660, f"{path}: {found.st_mode:o}"


@check
def the_hypervisors_user_reads_and_writes_by_the_group_and_nobody_else_does() -> None:
    as_user((HYPERVISOR_UID, SHARE_GID), lambda: write(BASE_FILE, 10, 1, 0x33))
    as_user((HYPERVISOR_UID, SHARE_GID), lambda: reads(BASE_FILE, {10: 0x33}))
    as_user(STRANGER, lambda: expect(PermissionError, "", lambda: os.listdir(POINT)))
    as_user((HYPERVISOR_UID, SHARE_GID), lambda: expect(PermissionError, "", lambda: os.listdir(POINT / ".stillframe")))
    as_user(STRANGER, lambda: expect(PermissionError, "", (POINT / BASE_FILE).read_bytes))


@by_service
def direct_io_goes_past_the_cache() -> None:
    handle = os.open(POINT / COPY, os.O_RDONLY | os.O_DIRECT)
    os.close(handle)
    command = ["qemu-io", "-f", "qcow2", "-t", "none", "-c", f"write -P 0x44 {20 * MIB} {MIB}", COPY]
    subprocess.run(command, cwd=POINT, check=True, stdout=subprocess.DEVNULL)
    reads(COPY, {20: 0x44, 21: 0})


@by_service
def qemus_locks_are_seen_by_another_process_and_go_with_the_program() -> None:
    place = share()
    assert place.in_use(VOLUME) == []
    with opened(POINT, BASE_FILE):
        assert place.in_use(VOLUME) == [BASE_FILE]
        expect(HostCommandFailed, "lock", lambda: qemu_img.resize(POINT, BASE_FILE, "qcow2", 128 * MIB))
    assert place.in_use(VOLUME) == []


@by_service
def names_are_given_once_replaced_whole_and_synced() -> None:
    for name in ("one", "two"):
        (POINT / name).write_text(name)
    expect(FileExistsError, "", lambda: os.link(POINT / "one", POINT / "two"))
    os.link(POINT / "one", POINT / "three")
    assert (POINT / "three").stat().st_nlink == 2
    os.rename(POINT / "one", POINT / "two")
    files.sync_file(POINT, "two")
    files.sync_directory(POINT)
    assert (POINT / "two").read_text() == "one"
    files.write_json(POINT, "two", {"a": 1})
    assert files.read_json(POINT, "two") == {"a": 1}
    for name in ("two", "three"):
        files.remove(POINT, name)


@by_service
def a_file_removed_while_it_is_open_is_none_of_ours() -> None:
    """The client keeps it as .nfsXXXX, where it was unlinked, until the last one closes it, and removes that a moment later."""
    (POINT / "held").write_text("x")

    def kept() -> list[str]:
        return [name for place in (POINT, POINT / workdir.NAME) for name in os.listdir(place) if name.startswith(".nfs")]

    with (POINT / "held").open():
        files.remove(POINT, "held")
        (name,) = kept()
        assert names.parse(name) is None and not names.is_trash(name)
        assert "held" not in files.listing(POINT)
    deadline = time.monotonic() + 60
    while kept():
        assert time.monotonic() < deadline, kept()
        time.sleep(0.05)


@check
def a_server_that_is_away_is_told_in_time_and_found_again() -> None:
    server(0)
    try:
        as_user(SERVICE, _unanswered)
    finally:
        server(4)
    Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
    as_user(SERVICE, _answered_again)


def _unanswered() -> None:
    prober = Prober(POINT, seconds=2.0, fresh_for=0.0)
    begin = time.monotonic()
    expect(ShareUnavailable, "does not answer", prober.check)
    assert time.monotonic() - begin < 10, "the probe waited for the server"
    expect(ShareUnavailable, "does not answer", prober.check)


def _answered_again() -> None:
    prober, deadline = Prober(POINT, seconds=20.0, fresh_for=0.0), time.monotonic() + 120
    while True:
        try:
            assert b"share_id" in prober.check()
            break
        except ShareUnavailable:
            assert time.monotonic() < deadline, "the share did not come back"
            time.sleep(0.5)
    reads(BASE_FILE, {1: 0x11, 10: 0x33})


def server(threads: int) -> None:
    subprocess.run(["rpc.nfsd", "--no-nfs-version", "3", str(threads)], check=True)


def write(name: str, start: int, count: int, value: int) -> None:
    """Fills MiB of a disk."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {value} {start * MIB} {count * MIB}", name]
    subprocess.run(command, cwd=POINT, check=True, stdout=subprocess.DEVNULL)


def reads(name: str, expected: dict[int, int]) -> None:
    """Compares MiB of a disk with the byte each must be filled with."""
    wanted = [word for start, value in expected.items() for word in ("-c", f"read -P {value} {start * MIB} {MIB}")]
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "qcow2", *wanted, name], cwd=POINT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Pattern" not in done.stdout, f"{name}: {done.stdout}{done.stderr}"


def expect(kind: type[Exception], words: str, function: Callable[[], object]) -> None:
    try:
        function()
    except kind as error:
        assert words in str(error), f"{error} does not say {words!r}"
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def of_the_suite(scratch: Path) -> dict[str, Callable[[], None]]:
    """The quick checks of the driver suite, to be called as a root whom the server takes for the service."""
    bench = open_bench("nfs", POINT, Export(EXPORT), scratch, Reader())

    def bound(checked: Check) -> Callable[[], None]:
        def call() -> None:
            try:
                checked(bench)
            finally:
                clean(scratch)

        return call

    return {name: bound(checked) for name, checked in quickly().items()}


def main() -> int:
    failed = run(CHECKS)
    export(root_is=SQUASHED_TO_SERVICE)
    with tempfile.TemporaryDirectory(prefix="stillframe-") as scratch:
        return run(of_the_suite(Path(scratch))) or failed


def run(checks: Mapping[str, Callable[[], None]]) -> int:
    failed = 0
    for name, function in checks.items():
        begin, problem = time.monotonic(), None
        try:
            function()
        except Exception:
            problem, failed = traceback.format_exc(), 1
        print(json.dumps({"check": name, "problem": problem, "seconds": round(time.monotonic() - begin, 1)}), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
