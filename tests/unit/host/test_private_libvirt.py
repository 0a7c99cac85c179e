"""The address of a libvirt daemon of our own."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stillframe.host import private_libvirt


@pytest.mark.parametrize("name", ["plain", "with space", "a&b=c", "100%", "50%25", "a+b", "a;b", "a#b?c", "Bücher, 'x'"])
def test_whatever_the_directory_is_called_the_socket_is_the_one_below_it(name: str) -> None:
    directory = Path("/srv") / name
    parts = urlsplit(private_libvirt.uri(directory))
    assert (parts.scheme, parts.path, parts.fragment) == ("qemu+unix", "/system", "")
    assert parse_qs(parts.query) == {"socket": [f"{directory}/run/libvirt-sock"]}
