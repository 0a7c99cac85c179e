"""The rule about requirements: one version, and a hash for what is downloaded."""

import pytest

from tests import repository

HASH = "--hash=sha256:" + "0a" * 32


def test_a_pinned_list_is_fine() -> None:
    text = f"# why\nattrs==26.1.0 \\\n    {HASH} \\\n    {HASH}\nboto3[crt]==1.44.0 ; python_version < '3.12' {HASH}\n"
    assert repository.unpinned(text) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("attrs==26.1.0\n", "attrs==26.1.0 has no hash"),
        ("attrs==26.1.0 --hash=md5:0a0a\n", "attrs==26.1.0 has no hash"),
        ("attrs==26.1.0 --hash=sha256:0a0a\n", "attrs==26.1.0 has no hash"),
        (f"attrs>=26 {HASH}\n", "attrs>=26 is not pinned to one version"),
        ("git+ssh://host/attrs\n", "git+ssh://host/attrs is not pinned to one version"),
        ("-r other.txt\n", "-r other.txt is not pinned to one version"),
    ],
)
def test_what_could_be_something_else_tomorrow_is_told(text: str, wanted: str) -> None:
    assert repository.unpinned(f"certifi==1.0 {HASH}\n{text}") == [wanted]
