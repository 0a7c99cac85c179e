"""The names of a backup's objects: made only from ids, and no other text is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import BadBackup, BadRequest
from stillframe.volumes.backups import keys
from tests.unit.builders import VOLUME

BACKUP = "aaaaaaaa-0000-4000-8000-000000000001"
TOP = f"volume-{VOLUME}/backup-{BACKUP}.qcow2"


@given(volume=st.uuids(), backup=st.uuids(), layers=st.integers(1, keys.MAX_LAYERS))
def test_every_name_made_here_is_read_here(volume: object, backup: object, layers: int) -> None:
    volume_id, backup_id = str(volume), str(backup)
    names = keys.layer_names(backup_id, layers)
    assert len(set(names)) == layers
    assert names[-1] == keys.top_name(backup_id)
    made = [keys.object_key(volume_id, name) for name in names] + [keys.manifest_key(volume_id, backup_id)]
    assert [keys.parse(key) for key in made] == [(volume_id, backup_id, key.rpartition("/")[2]) for key in made]
    assert all(key.startswith(keys.folder(volume_id)) for key in made)


def test_names_as_the_documentation_has_them() -> None:
    assert keys.layer_names("X", 1) == ("backup-X.qcow2",)
    assert keys.layer_names("X", 3) == ("backup-X.1.qcow2", "backup-X.2.qcow2", "backup-X.qcow2")


@given(st.text(max_size=150))
def test_no_other_text_is_a_name(text: str) -> None:
    assert keys.parse(text) is None
    with pytest.raises(BadBackup):
        keys.check(text)


@given(at=st.integers(0, len(TOP) - 1), inserted=st.sampled_from("/\\\0\n.:%~ ٣"))
def test_a_name_with_a_character_more_leads_nowhere(at: int, inserted: str) -> None:
    assert keys.parse(TOP[:at] + inserted + TOP[at:]) is None


@pytest.mark.parametrize("name", ["volumebackups", "a", "0", "A.b_c-d", "x" * 63])
def test_containers(name: str) -> None:
    assert keys.check_container(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", ".tmp", "a/b", "a\n", "x" * 64, "ä", "a b", None, 3])
def test_what_no_container_is_called(name: str) -> None:
    with pytest.raises(BadRequest, match="container"):
        keys.check_container(name)
