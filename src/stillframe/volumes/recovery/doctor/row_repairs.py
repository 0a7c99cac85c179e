"""Repairs that change rows and no file. They need no undo log: what the rows said was not so."""

from collections.abc import Callable, Mapping

from stillframe.db import assisted_snapshots, attachments, snapshots
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict
from stillframe.volumes.recovery.doctor.repairs import Repair
from stillframe.volumes.recovery.doctor.seen import ShareSeen
from stillframe.volumes.requests.force_detach import drop
from stillframe.volumes.worker.file_users import opened


def _release_attachment(database: Database, repair: Repair, share: ShareSeen | None) -> None:
    assert share is not None
    for name, holders in opened(share.path, repair.args["files"]).items():
        raise ChainConflict(f"{holders[0]} has {name} open")
    with database.write() as connection:
        row = attachments.get(connection, repair.args["id"], None)
        if row is not None:
            drop(connection, row)


def _set_available(database: Database, repair: Repair, _share: ShareSeen | None) -> None:
    with database.write() as connection:
        row = assisted_snapshots.get(connection, repair.args["id"], None)
        if row is None or row["status"] != "error":
            raise ChainConflict(f"assisted snapshot {repair.args['id']} changed since it was looked at; run the doctor again")
        for entry in row["volumes"]:
            known = snapshots.get(connection, entry["snapshot_id"], None)
            if known is None or known["status"] != "available":
                raise ChainConflict(f"snapshot {entry['snapshot_id']} is {known['status'] if known else 'gone'}")
        entries = [{**entry, "status": "available", "error": None} for entry in row["volumes"]]
        assisted_snapshots.change(connection, row["id"], status="available", fault=None, progress=100, volumes=entries)


VERBS: Mapping[str, Callable[[Database, Repair, ShareSeen | None], None]] = {
    "release_attachment": _release_attachment,
    "set_available": _set_available,
}
