"""Headers that lie: each is refused before QEMU opens the file."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.support.hostile import Hostile, Place
from tests.unit.host.headers import BACKING_FORMAT, CLUSTER, DATA_FILE, FEATURE_NAMES, Header

SIZE = 4 << 20
CRYPTO = 0x0537BE77
QCOW2 = (BACKING_FORMAT, b"qcow2")
RAW = (BACKING_FORMAT, b"raw")


def small(**changes: Any) -> Header:
    """An honest empty image of 4 MiB with a field or more changed."""
    return replace(Header(size=SIZE, l1_entries=1, extensions=[(FEATURE_NAMES, b"\0" * 48)]), **changes)


def file_of(start: bytes) -> bytes:
    """Completes a first cluster to an empty image: refcount table and block, first-level table."""
    table = struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0")
    block = struct.pack(">H", 1) * 4
    return start + table + block.ljust(CLUSTER, b"\0") + b"\0" * CLUSTER


def header(name: str, make: Callable[[Place], Header]) -> Hostile:
    return Hostile(name, lambda place: _put(place, file_of(make(place).start())))


def plain(name: str, **changes: Any) -> Hostile:
    return header(name, lambda _place: small(**changes))


def _put(place: Place, content: bytes) -> None:
    place.path.write_bytes(content)


def cases() -> Iterator[Hostile]:
    yield from _backing_names()
    yield from _backing_formats()
    yield from _features()
    yield from _fields()
    yield from _lengths()


def _backing_names() -> Iterator[Hostile]:
    names: dict[str, Callable[[Place], str]] = {
        "absolute": lambda p: f"{p.canary}",
        "parent": lambda p: f"../{p.canary.name}",
        "here": lambda p: f"./{p.name}",
        "subdirectory": lambda p: "sub/file",
        "dot": lambda p: ".",
        "dots": lambda p: "..",
        "hidden": lambda p: ".hidden",
        "json": lambda p: f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{p.canary}"}}}}',
        "json-nbd": lambda p: f'json:{{"driver":"nbd","host":"127.0.0.1","port":"{p.port}"}}',
        "file": lambda p: f"file:{p.canary}",
        "raw": lambda p: f"raw:{p.canary}",
        "nbd": lambda p: f"nbd:127.0.0.1:{p.port}",
        "nbd-url": lambda p: f"nbd://127.0.0.1:{p.port}/x",
        "http": lambda p: f"http://127.0.0.1:{p.port}/x",
        "https": lambda p: f"https://127.0.0.1:{p.port}/x",
        "ftp": lambda p: f"ftp://127.0.0.1:{p.port}/x",
        "ssh": lambda p: f"ssh://root@127.0.0.1:{p.port}/x",
        "iscsi": lambda p: f"iscsi://127.0.0.1:{p.port}/iqn.x/0",
        "rbd": lambda p: f"rbd:pool/image:mon_host=127.0.0.1\\:{p.port}",
        "gluster": lambda p: f"gluster://127.0.0.1:{p.port}/volume/x",
        "nfs": lambda p: f"nfs://127.0.0.1:{p.port}/x",
        "fat": lambda p: f"fat:{p.canary.parent}",
        "fat-writable": lambda p: f"fat:rw:{p.canary.parent}",
        "blkdebug": lambda p: f"blkdebug::{p.canary}",
        "blkverify": lambda p: f"blkverify:{p.canary}:{p.canary}",
        "device": lambda p: "/dev/zero",
        "host-device": lambda p: f"host_device:{p.canary}",
        "descriptor": lambda p: "/dev/fd/0",
        "process": lambda p: "/proc/self/environ",
        "newline": lambda p: f"{p.name}\n",
        "space": lambda p: "a b",
        "options": lambda p: f"{p.name},file.filename={p.canary}",
        "dash": lambda p: "-drive",
        "colon": lambda p: "a:b",
        "backslash": lambda p: "a\\b",
        "not-ascii": lambda p: "volumé",
        "null": lambda p: f"{p.name}\0.txt",
    }
    for name, make in names.items():
        yield header(f"backing-{name}", lambda p, make=make: small(backing=make(p).encode(), extensions=[RAW]))  # type: ignore[misc]
    yield plain("backing-too-long", backing=b"a" * 1024, extensions=[QCOW2])
    yield plain("backing-behind-the-cluster", backing=b"base", backing_at=CLUSTER - 2, extensions=[QCOW2])
    yield plain("backing-behind-the-file", backing=b"base", backing_at=1 << 40, extensions=[QCOW2])
    yield plain("backing-without-length", backing=b"base", backing_length=0, extensions=[QCOW2])
    yield plain("backing-in-the-header", backing=b"base", backing_at=8, backing_length=8, extensions=[QCOW2])


def _backing_formats() -> Iterator[Hostile]:
    yield plain("format-missing", backing=b"base", extensions=[])
    yield plain("format-twice", backing=b"base", extensions=[RAW, QCOW2])
    yield plain("format-twice-the-same", backing=b"base", extensions=[QCOW2, QCOW2])
    yield plain("format-without-backing", extensions=[RAW])
    for number, format_ in enumerate((b"vmdk", b"luks", b"", b"qcow2\0", b"raw,file.filename=x", b"\xff")):
        yield plain(f"format-strange-{number}", backing=b"base", extensions=[(BACKING_FORMAT, format_)])


def _features() -> Iterator[Hostile]:
    yield header("data-file", lambda p: small(incompatible=4, extensions=[(DATA_FILE, str(p.canary).encode())]))
    yield header("data-file-extension-only", lambda p: small(extensions=[(DATA_FILE, str(p.canary).encode())]))
    yield header("data-file-json", lambda p: small(incompatible=4, extensions=[(DATA_FILE, _json(p))]))
    for name, bit in {"data-file-bit-only": 2, "corrupt-bit": 1, "extended-l2": 4, "unknown-bit": 5, "highest-bit": 63}.items():
        yield plain(name, incompatible=1 << bit)
    yield plain("dirty-and-unknown", incompatible=1 | 1 << 40)
    yield plain("compression-unknown", incompatible=8, header_length=112, compression=9)
    yield plain("compression-without-bit", header_length=112, compression=1)
    yield plain("aes", crypt=1)
    yield plain("luks-without-header", crypt=2)  # a NULL pointer in qemu-img info 7.2
    yield plain("luks-with-header", crypt=2, extensions=[(CRYPTO, struct.pack(">QQ", 4 * CLUSTER, CLUSTER))])
    yield plain("luks-header-without-luks", extensions=[(CRYPTO, struct.pack(">QQ", 4 * CLUSTER, CLUSTER))])
    yield plain("internal-snapshot", internal_snapshots=1)
    yield plain("internal-snapshots-many", internal_snapshots=0xFFFFFFFF)


def _json(place: Place) -> bytes:
    return f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{place.canary}"}}}}'.encode()


def _fields() -> Iterator[Hostile]:
    for version in (0, 1, 4, 0xFFFFFFFF):
        yield plain(f"version-{version}", version=version)
    for bits in (0, 8, 22, 31, 63, 0xFFFFFFFF):
        yield plain(f"cluster-bits-{bits}", bits=bits)
    for order in (7, 31, 0xFFFFFFFF):
        yield plain(f"refcount-order-{order}", refcount_order=order)
    for size in (1 << 63, (1 << 64) - 1, (1 << 56) + 1, SIZE << 10):
        yield plain(f"size-{size:#x}", size=size)
    yield plain("l1-huge", l1_entries=0xFFFFFFFF)
    yield plain("l1-over-the-limit", l1_entries=(4 << 20) + 1)
    yield plain("l1-empty", l1_entries=0)
    yield plain("l1-behind-the-file", l1_at=1 << 40)
    yield plain("l1-wraps-around", l1_at=(1 << 64) - CLUSTER, l1_entries=CLUSTER)
    yield plain("l1-unaligned", l1_at=3 * CLUSTER - 8)
    yield plain("l1-on-the-header", l1_at=0)
    yield plain("l1-on-the-refcounts", l1_at=CLUSTER)
    yield plain("refcounts-huge", ref_clusters=0xFFFFFFFF)
    yield plain("refcounts-behind-the-file", ref_at=1 << 40)
    yield plain("refcounts-unaligned", ref_at=CLUSTER + 512)
    yield plain("refcounts-on-the-header", ref_at=0)


def _lengths() -> Iterator[Hostile]:
    for length in (0, 72, 103, 105, 1 << 16, 0xFFFFFFFF):
        yield _patched(f"header-length-{length}", 100, struct.pack(">I", length))
    for length in (CLUSTER, 0x7FFFFFFF, 0xFFFFFFFF):
        yield _patched(f"extension-overrun-{length}", 104, struct.pack(">II", FEATURE_NAMES, length))
    whole = file_of(small().start())
    for length in (0, 1, 4, 8, 71, 72, 103, 104, 512, CLUSTER, 2 * CLUSTER, 3 * CLUSTER):
        yield Hostile(f"cut-off-at-{length}", lambda p, length=length: _put(p, whole[:length]))  # type: ignore[misc]


def _patched(name: str, at: int, data: bytes) -> Hostile:
    whole = bytearray(file_of(small().start()))
    whole[at : at + len(data)] = data
    return Hostile(name, lambda place: _put(place, bytes(whole)))
