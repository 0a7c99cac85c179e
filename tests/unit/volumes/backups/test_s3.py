"""What a bucket holds is the word of whoever may write into it."""

from types import SimpleNamespace

import pytest

from stillframe.errors import BackupStoreUnavailable
from stillframe.volumes.backups import s3


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"[" * 4000])
def test_a_marker_that_cannot_be_read_is_never_replaced(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    client = SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://s3"))  # puts nothing
    store = s3.S3Repository(s3.Place("bucket", "", "container", None), client)
    monkeypatch.setattr(store, "_pieces", lambda _key, _what: iter([text]))
    with pytest.raises(BackupStoreUnavailable, match=s3.MARKER):
        store.prepare()
