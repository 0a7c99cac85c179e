"""Lists of shares: what Cinder's operators write is understood, what could harm is refused with file and line."""

from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration
from stillframe.volumes.storage.drivers import shares_config
from stillframe.volumes.storage.drivers.shares_config import Allowed, Export

ALLOWED = Allowed(frozenset({"hard", "vers", "timeo", "servers"}), {"soft": "it loses writes"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shares"


def test_a_list_as_operators_write_it(path: Path) -> None:
    path.write_text(
        "# our shares\n"
        "\n"
        "nas.example.org:/srv/volumes\n"
        "  192.0.2.7:/export/a-b_c.d -o vers=4.1,hard  \n"
        "[2001:db8::7]:/vol\t-o timeo=600 -o hard\r\n"
        "   # last\n"
        "gluster1:/vol/dir/ -o servers=gluster2:gluster3"
    )
    assert shares_config.read(path, ALLOWED) == [
        Export("nas.example.org:/srv/volumes"),
        Export("192.0.2.7:/export/a-b_c.d", ("vers=4.1", "hard")),
        Export("[2001:db8::7]:/vol", ("timeo=600", "hard")),
        Export("gluster1:/vol/dir/", ("servers=gluster2:gluster3",)),
    ]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("nas", "form host:/path"),
        ("nas:", "plain absolute"),
        ("nas:/", "plain absolute"),
        ("nas:srv", "plain absolute"),
        (":/srv", "form host:/path"),
        ("/srv", "form host:/path"),
        ("-oexec:/srv", "form host:/path"),
        ("--bind:/srv", "form host:/path"),
        ("nas-:/srv", "form host:/path"),
        ("na$s:/srv", "form host:/path"),
        ("2001:db8::7:/vol", "form host:/path"),
        ("[2001:db8::g]:/vol", "form host:/path"),
        ("[nas]:/vol", "form host:/path"),
        ("nas:/a/../b", "plain absolute"),
        ("nas:/a//b", "plain absolute"),
        ("nas:/a\\040b", "plain absolute"),
        ("nas:/a,b", "plain absolute"),
        ("nas:/a\x00b", "plain absolute"),
        ("nas:/a\x1bb", "plain absolute"),
        ("nas:/a b", "not of the form -o"),
        ("nas:/a rw", "not of the form -o"),
        ("nas:/a -o", "not of the form -o"),
        ("nas:/a -o hard --bind /etc", "not of the form -o"),
        ("nas:/a -o hard --verbose", "not of the form -o"),
        ("nas:/a -o hard,--bind", "not one of those taken"),
        ("nas:/a -o helper=x", "not one of those taken"),
        ("nas:/a -o vers=4;reboot", "not one of those taken"),
        ("nas:/a -o hard=", "not one of those taken"),
        ("nas:/a -o soft,hard", "it loses writes"),
        ("nas:/a -o suid", "never programs"),
        ("nas:/a -o bind", "local directory"),
        ("nas:/a -o remount", "in use"),
    ],
)
def test_a_line_that_is_not_plain_is_refused_by_file_and_line(path: Path, line: str, cause: str) -> None:
    path.write_bytes(b"good:/share\n\n" + line.encode() + b"\nalso:/good\n")
    with pytest.raises(BadConfiguration, match=cause) as raised:
        shares_config.read(path, ALLOWED)
    assert raised.value.message.startswith(f"{path}, line 3: ")


@pytest.mark.parametrize("again", ["nas:/a", "nas:/a/", "nas:/a -o hard"])
def test_a_share_listed_twice_is_refused(path: Path, again: str) -> None:
    path.write_text(f"nas:/a\n{again}\n")
    with pytest.raises(BadConfiguration, match=r"line 2: the share nas:/a/? is listed already"):
        shares_config.read(path, ALLOWED)


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", None, b"nas:/\xc3\xa9\n"])
def test_a_list_without_shares_or_that_cannot_be_read_is_refused(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadConfiguration, match=str(path)):
        shares_config.read(path, ALLOWED)


@pytest.mark.parametrize("value", [None, "", "shares", "./shares"])
def test_the_list_must_be_named_by_its_whole_path(value: str | None) -> None:
    with pytest.raises(BadConfiguration, match="nfs_shares_config"):
        shares_config.required(value, "nfs_shares_config")


def test_options_of_the_same_name_are_replaced() -> None:
    assert shares_config.merge(["hard", "vers=4.2"], ["vers=4.1", "timeo=1"]) == ("hard", "vers=4.1", "timeo=1")
