"""What two people may ask of one volume at the same moment, and what may come of it.

The scene: a volume with two snapshots, a backup of the older one, a file that is kept for nobody since another backup was
deleted, and a revert that can be undone.
"""

import copy
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.oracle import Backup, Model, Refused, Volume
from tests.support.oracle_reader import Reader
from tests.support.oracle_service import LINKED, THIN, Block, Storage


@dataclass(frozen=True)
class Scene:
    """The ids of what there is."""

    volume: str
    old: str
    new: str
    backup: str


@dataclass(frozen=True)
class Asked:
    """One request and its answer: accepted with a result (often a new id), or refused."""

    name: str
    accepted: bool
    result: Any
    words: str = ""


Follow = Callable[[Model, Scene, str], None]


@dataclass(frozen=True)
class Request:
    """``parameters`` are made for the scene and for who asks; ``follow`` lets the model follow, with the new id if there is
    one. ``free`` requests need a volume that is available."""

    method: str
    parameters: Callable[[Scene, str], dict[str, Any]]
    follow: Follow
    free: bool = True


def build(block: Block, reader: Reader, volume_type: str = THIN) -> tuple[Scene, Model]:
    """Makes the scene, and the model of it; ``volume_type`` is THIN, or THICK for a volume whose lowest file is raw."""
    model = Model()

    def ask(method: str, **parameters: Any) -> str:
        answer = block.ask(method, **parameters)
        assert not answer.refused, answer.error
        return str(answer.result)

    def write(value: int) -> None:
        _write(block, reader, model.volumes[volume], volume, value)

    volume = ask("create_volume", wanted={"size": 1, "volume_type": volume_type})
    model.create(volume, 1, "qcow2" if volume_type == THIN else "raw")
    write(1)
    old = ask("create_snapshot", volume_id=volume, wanted={})
    model.snapshot(volume, old)
    write(2)
    dropped = ask("create_backup", wanted={"volume_id": volume})
    write(3)
    ask("delete_backup", backup_id=dropped)
    new = ask("create_snapshot", volume_id=volume, wanted={})
    model.snapshot(volume, new)
    backup = ask("create_backup", wanted={"volume_id": volume, "snapshot_id": old})
    model.backup(backup, Backup(model.volumes[volume].snapshots[old], volume), False)
    write(4)
    ask("revert_volume", volume_id=volume, snapshot_id=new, newer=None)
    model.revert(volume, new, None)
    return Scene(volume, old, new, backup), model


def build_small(ask: Callable[..., str], storage: Storage, reader: Reader, model: Model) -> Scene:
    """Adds a volume with two snapshots; ``ask`` calls a method, waits for what follows, and returns the new id."""
    volume = ask("create_volume", wanted={"size": 1})
    model.create(volume, 1)
    snapshots = []
    for value in (1, 2):
        _write(storage, reader, model.volumes[volume], volume, value)
        snapshots.append(ask("create_snapshot", volume_id=volume, wanted={}))
        model.snapshot(volume, snapshots[-1])
    _write(storage, reader, model.volumes[volume], volume, 3)
    return Scene(volume, snapshots[0], snapshots[1], "")


def _write(storage: Storage, reader: Reader, volume: Volume, volume_id: str, value: int) -> None:
    """Three blocks, at another place for each byte."""
    row = storage.volumes()[volume_id]
    pieces = [(2 * value - 2, 3, value)]
    volume.disk = reader.write(Path(row["share"], row["active_file"]), row["format"], volume.disk, pieces)


def _volume(model: Model, scene: Scene) -> Volume:
    if scene.volume not in model.volumes:
        raise Refused("the volume is gone")
    return model.volumes[scene.volume]


def _needs(model: Model, scene: Scene, *snapshots: str) -> Volume:
    volume = _volume(model, scene)
    if any(snapshot not in volume.snapshots for snapshot in snapshots):
        raise Refused("a snapshot is gone")
    return volume


def _delete(*which: str) -> Follow:
    def follow(model: Model, scene: Scene, _new: str) -> None:
        chosen = [getattr(scene, name) for name in which]
        _needs(model, scene, *chosen)
        model.delete_snapshots(scene.volume, chosen)

    return follow


def _revert(which: str, newer: Any) -> Follow:
    def follow(model: Model, scene: Scene, _new: str) -> None:
        _needs(model, scene, getattr(scene, which))
        model.revert(scene.volume, getattr(scene, which), newer)

    return follow


def _clone(which: str | None) -> Follow:
    def follow(model: Model, scene: Scene, new: str) -> None:
        volume = _needs(model, scene, *([getattr(scene, which)] if which else []))
        disk = volume.snapshots[getattr(scene, which)] if which else volume.disk
        model.copy(new, scene.volume, disk, disk.gib)

    return follow


def _link(model: Model, scene: Scene, new: str) -> None:
    _needs(model, scene, scene.new)
    model.link(new, (scene.volume, scene.new), 1)


def _backup_new(model: Model, scene: Scene, new: str) -> None:
    volume = _needs(model, scene, scene.new)
    model.backup(new, Backup(volume.snapshots[scene.new], scene.volume), False)


def _backup(model: Model, scene: Scene, new: str) -> None:
    model.backup(new, Backup(_volume(model, scene).disk, scene.volume), True)


def _backup_incrementally(model: Model, scene: Scene, new: str) -> None:
    if scene.backup not in model.backups:
        raise Refused("the backup it would build on is gone")
    model.backup(new, Backup(_volume(model, scene).disk, scene.volume, scene.backup), True)


def _restore(model: Model, scene: Scene, _new: str) -> None:
    if scene.backup not in model.backups:
        raise Refused("the backup is gone")
    _volume(model, scene)
    model.restore_over(scene.volume, scene.backup)


def _restore_new(model: Model, scene: Scene, new: str) -> None:
    if scene.backup not in model.backups:
        raise Refused("the backup is gone")
    model.restore_new(new, scene.backup, 1)


def _delete_backup(model: Model, scene: Scene, _new: str) -> None:
    if scene.backup not in model.backups:
        raise Refused("the backup is gone")
    model.delete_backup(scene.backup)


def _delete_volume(cascade: bool) -> Follow:
    def follow(model: Model, scene: Scene, _new: str) -> None:
        _volume(model, scene)
        model.delete(scene.volume, cascade)

    return follow


def _attach(model: Model, scene: Scene, _new: str) -> None:
    _volume(model, scene).status = "reserved"


def _rename(model: Model, scene: Scene, _new: str) -> None:
    _volume(model, scene)


def _extend(gib: int) -> Follow:
    def follow(model: Model, scene: Scene, _new: str) -> None:
        _volume(model, scene)
        model.extend(scene.volume, gib)

    return follow


def _undo(model: Model, scene: Scene, _new: str) -> None:
    _volume(model, scene)
    model.undo(scene.volume)


def _snapshot(model: Model, scene: Scene, new: str) -> None:
    _volume(model, scene)
    model.snapshot(scene.volume, new)


def _of_volume(**more: Any) -> Callable[[Scene, str], dict[str, Any]]:
    return lambda scene, _who: {"volume_id": scene.volume, **more}


def _of_snapshot(which: str, newer: str | None) -> Callable[[Scene, str], dict[str, Any]]:
    return lambda scene, _who: {"volume_id": scene.volume, "snapshot_id": getattr(scene, which), "newer": newer}


def _instance(who: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, who))


REQUESTS: Mapping[str, Request] = {
    "snapshot": Request("create_snapshot", _of_volume(wanted={}), _snapshot),
    "delete the older": Request("delete_snapshot", lambda scene, _: {"snapshot_id": scene.old}, _delete("old")),
    "delete the newer": Request("delete_snapshot", lambda scene, _: {"snapshot_id": scene.new}, _delete("new")),
    "delete both": Request(
        "delete_snapshots", lambda scene, _: {"snapshot_ids": [scene.old, scene.new]}, _delete("old", "new")
    ),
    "revert": Request("revert_volume", _of_snapshot("new", None), _revert("new", None)),
    "revert, keep": Request("revert_volume", _of_snapshot("old", "keep"), _revert("old", "keep")),
    "revert, remove": Request("revert_volume", _of_snapshot("old", "remove"), _revert("old", "remove")),
    "undo": Request("undo_revert", _of_volume(), _undo),
    "extend": Request("extend_volume", _of_volume(new_size=2), _extend(2)),
    "clone": Request("create_volume", lambda scene, _: {"wanted": {"source_volid": scene.volume}}, _clone(None)),
    "clone the older": Request(
        "create_volume", lambda scene, _: {"wanted": {"snapshot_id": scene.old}}, _clone("old"), free=False
    ),
    "link": Request(
        "create_volume", lambda scene, _: {"wanted": {"snapshot_id": scene.new, "volume_type": LINKED}}, _link, free=False
    ),
    "delete": Request("delete_volume", _of_volume(cascade=False), _delete_volume(False)),
    "delete, cascade": Request("delete_volume", _of_volume(cascade=True), _delete_volume(True)),
    "back up": Request("create_backup", lambda scene, _: {"wanted": {"volume_id": scene.volume}}, _backup),
    "back up the newer": Request(
        "create_backup",
        lambda scene, _: {"wanted": {"volume_id": scene.volume, "snapshot_id": scene.new}},
        _backup_new,
        free=False,
    ),
    "back up incrementally": Request(
        "create_backup", lambda scene, _: {"wanted": {"volume_id": scene.volume, "incremental": True}}, _backup_incrementally
    ),
    "restore": Request(
        "restore_backup", lambda scene, _: {"backup_id": scene.backup, "volume_id": scene.volume, "name": None}, _restore
    ),
    "restore elsewhere": Request(
        "create_volume_from_backup",
        lambda scene, _: {"wanted": {"backup_id": scene.backup, "volume_type": THIN}},
        _restore_new,
        free=False,
    ),
    "delete the backup": Request("delete_backup", lambda scene, _: {"backup_id": scene.backup}, _delete_backup, free=False),
    "attach": Request(
        "create_attachment",
        lambda scene, who: {"wanted": {"volume_uuid": scene.volume, "instance_uuid": _instance(who)}},
        _attach,
    ),
    "rename": Request(
        "update_volume", lambda scene, who: {"volume_id": scene.volume, "changes": {"name": who}}, _rename, False
    ),
}
LOOK = "look around"  # what the worker does by itself; nobody requests it and it refuses nobody


def outcomes(model: Model, scene: Scene, asked: tuple[Asked, Asked]) -> Iterator[tuple[str, Model]]:
    """What may lie there after two requests that came at the same moment and were answered so: one after the other, in
    either order; or one of them, when the other was refused because of it."""
    for order in (asked, asked[::-1]):
        after, fits = copy.deepcopy(model), True
        for each in order:
            fits = fits and (_follows(after, scene, each) or not each.accepted)
            if not fits:
                break
        if fits and (any(each.accepted for each in asked) or _none_possible(model, scene, asked)):
            yield ", then ".join(each.name for each in order), after


def _follows(model: Model, scene: Scene, each: Asked) -> bool:
    """Lets the model follow a request that was accepted. False where it must have been refused."""
    if each.name == LOOK:
        return True
    if not each.accepted:
        return False
    return _possible(model, scene, each)


def _possible(model: Model, scene: Scene, each: Asked) -> bool:
    request, volume = REQUESTS[each.name], model.volumes.get(scene.volume)
    if request.free and volume is not None and volume.status != "available":
        return False
    try:
        request.follow(model, scene, str(each.result))
    except Refused:
        return False
    return True


def _none_possible(model: Model, scene: Scene, asked: tuple[Asked, Asked]) -> bool:
    """Both were refused, which is right only if neither could have been done."""
    return not any(each.name == LOOK or _possible(copy.deepcopy(model), scene, each) for each in asked)


def must_be_refused(model: Model, scene: Scene, name: str) -> bool:
    """Tells whether a request alone is refused in the scene."""
    return name != LOOK and not _possible(copy.deepcopy(model), scene, Asked(name, True, "new"))
