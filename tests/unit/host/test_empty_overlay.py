"""The bytes of an empty overlay, read back by our own reader of headers; qemu-img's are compared in tests/functional."""

import pytest

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import empty_overlay, qcow2


@pytest.mark.parametrize("size", [512, 1 << 30, 5 << 40, 1 << 50])
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_the_header_says_what_was_asked_for(size: int, format_: str) -> None:
    wanted = Image("top", "qcow2", size, "base", format_)
    pieces, length = empty_overlay.pieces(wanted)
    start = bytearray(1 << 16)
    for place, data in pieces:
        start[place : place + len(data)] = data
    assert qcow2.parse("top", bytes(start[: 1 << 16]), length) == wanted
    assert all(place + len(data) <= length for place, data in pieces)


@pytest.mark.parametrize(
    "image",
    [
        Image("top", "qcow2", 1 << 30),
        Image("top", "raw", 1 << 30, "base", "raw"),
        Image("top", "qcow2", 1 << 30, "base", None),
        Image("top", "qcow2", 0, "base", "raw"),
        Image("top", "qcow2", 1000, "base", "raw"),
        Image("top", "qcow2", (1 << 50) + 512, "base", "raw"),
        Image("top", "qcow2", 1 << 30, "b" * 1024, "raw"),
    ],
)
def test_what_is_no_overlay_is_refused(image: Image) -> None:
    with pytest.raises(BadImage):
        empty_overlay.pieces(image)
