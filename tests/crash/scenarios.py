"""What each sample of ``samples.offline`` is in real life: what is there before, what is asked for, what is there afterwards.

``SCENARIOS`` has one for every sample.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillframe.chain.names import base_name, overlay_name
from stillframe.db.tables import group_snapshots, snapshots, volumes
from stillframe.host import qcow2
from stillframe.journal.record import Request
from tests.crash import samples
from tests.crash.places import Place
from tests.crash.stage import SOURCE, Content, Copy, Stage, write
from tests.support.qcow2_content import filled
from tests.support.stack import Api, wait_for

GIB = 1 << 30


@dataclass
class Run:
    """One operation, asked for and stopped. ``made`` is the id of what it makes, ``problem`` why it could not be stopped."""

    scenario: "Scenario"
    place: Place
    number: int
    copy: Copy = field(default_factory=lambda: Copy({}))
    made: str = ""
    problem: str = ""

    @property
    def about(self) -> str:
        return self.scenario.about(self)

    def __str__(self) -> str:
        words = self.scenario.name.partition(" ")[2].replace(" ", "_")
        return f"{self.place}-{words}" if words else str(self.place)


@dataclass
class Model:
    """What there must be in the end: volumes, snapshots and backups by id, those that failed, other files of the share."""

    content: dict[str, Content]
    failed: set[str] = field(default_factory=set)
    files: dict[str, Content] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """``arrange`` makes the template; ``about`` is what the failpoint knows the operation by: an id, or another word of its
    plan; ``ask`` sends the request and returns the id of what is made. ``forward`` and ``back`` change the model as the
    operation, done or undone, changes the world."""

    name: str
    arrange: Callable[[Stage], Copy]
    ask: Callable[[Api, Run], Any]
    forward: Callable[[Model, Run], None]
    back: Callable[[Model, Run], None] = lambda _model, _run: None
    about: Callable[[Run], str] = lambda run: run.copy["volume"]
    prepare: Callable[[Stage, Copy], None] = lambda _stage, _copy: None
    look: Callable[[Stage, Run, Model], None] = lambda _stage, _run, _model: None
    admin: bool = False  # only an administrator may ask for it

    @property
    def sample(self) -> Request:
        return samples.offline()[self.name]

    def after(self, run: Run) -> Model:
        model = Model(dict(run.copy.content))
        (self.back if run.place.back else self.forward)(model, run)
        return model


def grown(*weights: int) -> Callable[[Stage], Copy]:
    return lambda stage: stage.grown(weights)


def action(api: Api, volume_id: str, name: str, **words: Any) -> Any:
    return api.ok("volume", "POST", f"/volumes/{volume_id}/action", {name: words})


# making volumes


def create(api: Api, size: int = 1, **wanted: Any) -> str:
    body = {"volume": {"size": size, **wanted}}
    return str(api.ok("volume", "POST", "/volumes", body)["volume"]["id"])


def made_as(part: str) -> Callable[[Model, Run], None]:
    def forward(model: Model, run: Run) -> None:
        model.content[run.made] = run.copy.content[run.copy[part]] if part else {}

    return forward


def made_failed(model: Model, run: Run) -> None:
    model.failed.add(run.made)


def linked(stage: Stage) -> Copy:
    """A volume, and a linked clone of its second snapshot that was written to."""
    source, api = stage.grown((3, 4, 2)), stage.lab.api
    clone = create(api, snapshot_id=source["1"], volume_type="linked")
    wait_for(lambda: api.volume(clone)["status"] == "available", "the clone", 60)
    write(stage.share / base_name(clone), {8: 99})
    content = {**source.content[source["1"]], 8: 99}
    return Copy({**source.ids, "clone": clone}, {**source.content, clone: content})


def from_elsewhere(stage: Stage, copy: Copy) -> None:
    shutil.copy(stage.elsewhere, stage.share / f"from-{copy['file']}")


def take_over(api: Api, run: Run) -> str:
    body = {"volume": {"host": "here@local", "ref": {"source-name": f"from-{run.copy['file']}"}}}
    return str(api.ok("volume", "POST", "/manageable_volumes", body)["volume"]["id"])


def taken_over(model: Model, run: Run) -> None:
    model.content[run.made] = SOURCE


def left_where_it_was(model: Model, run: Run) -> None:
    model.files[f"from-{run.copy['file']}"] = SOURCE
    model.failed.add(run.made)


def abandoned_operations(model: Model, run: Run) -> None:
    model.files[f"unmanaged-{run.copy['volume']}"] = model.content.pop(run.copy["volume"])


# images


def put_image(stage: Stage, copy: Copy) -> None:
    stage.images.add(copy["image"], stage.elsewhere.read_bytes())


def upload(api: Api, run: Run) -> str:
    words = {"image_name": "n", "disk_format": "qcow2"}
    return str(action(api, run.copy["volume"], "os-volume_upload_image", **words)["os-volume_upload_image"]["image_id"])


def look_at_image(stage: Stage, run: Run, model: Model) -> None:
    """What was uploaded is complete; what was abandoned is no longer an image."""
    if run.place.back:
        assert run.made not in stage.images.images
        return
    assert stage.images.images[run.made]["status"] == "active"
    path = stage.lab.directory / f"image-{run.made}"
    path.write_bytes(stage.images.content[run.made])
    assert filled(path.parent, path.name) == model.content[run.copy["volume"]]


# what is there already


def look_at_size(stage: Stage, run: Run, _model: Model) -> None:
    row = stage.rows(volumes)[run.copy["volume"]]
    assert row["size"] == 2
    assert run.place.back or qcow2.read(stage.share, row["active_file"]).size == 2 << 30


def write_after_snapshot(stage: Stage, run: Run, model: Model) -> None:
    """The volume can be written to; the snapshot stays as it is."""
    volume_id = run.copy["volume"]
    top = overlay_name(volume_id, run.copy["0"] if run.place.back else run.made)
    write(stage.share / top, {8: 77})
    assert filled(stage.share, top) == {**model.content[volume_id], 8: 77}
    below = overlay_name(volume_id, run.copy["0"])
    assert run.place.back or filled(stage.share, below) == model.content[run.made]


def snapshot(api: Api, run: Run) -> str:
    body = {"snapshot": {"volume_id": run.copy["volume"]}}
    return str(api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"])


def two_volumes(stage: Stage) -> Copy:
    """A volume with a snapshot and one without, and a type for groups of them, as many as there are places."""
    first, second, admin = stage.grown((3, 2)), stage.grown((4,)), stage.lab.stack.api("stillframe-admin")
    admin.ok("volume", "POST", "/group_types", {"group_type": {"name": "together"}})
    admin.ok("volume", "PUT", "/os-quota-class-sets/default", {"quota_class_set": {"groups": -1}})
    return Copy({**first.ids, "other": second["volume"]}, {**first.content, **second.content})


def snapshot_group(api: Api, run: Run) -> str:
    """Returns the ids of the two snapshots."""
    both = [run.copy["volume"], run.copy["other"]]
    group_id = api.volume(both[0])["group_id"]
    if group_id is None:  # it is not asked for once more
        body = {"group": {"group_type": "together", "volume_types": ["default"]}}
        group_id = api.ok("volume", "POST", "/groups", body)["group"]["id"]
        api.ok("volume", "PUT", f"/groups/{group_id}", {"group": {"add_volumes": ",".join(both)}})
    made = api.ok("volume", "POST", "/group_snapshots", {"group_snapshot": {"group_id": group_id}})["group_snapshot"]["id"]
    every = api.ok("volume", "GET", "/snapshots/detail")["snapshots"]
    of = {each["volume_id"]: each["id"] for each in every if each["group_snapshot_id"] == made}
    return " ".join(of[volume_id] for volume_id in both)


def both_kept(model: Model, run: Run) -> None:
    for part, made in zip(("volume", "other"), run.made.split(), strict=True):
        model.content[made] = run.copy.content[run.copy[part]]


def both_failed(model: Model, run: Run) -> None:
    model.failed |= set(run.made.split())


def look_at_group_snapshot(stage: Stage, run: Run, _model: Model) -> None:
    of = {stage.rows(snapshots)[each]["group_snapshot_id"] for each in run.made.split()}
    (row,) = (stage.rows(group_snapshots)[each] for each in of)
    assert row["status"] == ("error" if run.place.back else "available")


def rename_snapshot(api: Api, run: Run) -> None:
    api.ok("volume", "PUT", f"/snapshots/{run.copy['0']}", {"snapshot": {"name": "renamed"}})


def deletes(words: str, weights: Sequence[int], *gone: int) -> Scenario:
    """Deletes some of a volume's snapshots at once."""

    def ask(api: Api, run: Run) -> None:
        action(api, run.copy["volume"], "os-delete_snapshots", snapshot_ids=[run.copy[str(number)] for number in gone])

    return Scenario(f"delete_snapshot {words}", grown(*weights), ask, without(*map(str, gone)))


def without(*parts: str) -> Callable[[Model, Run], None]:
    def forward(model: Model, run: Run) -> None:
        for part in parts:
            del model.content[run.copy[part]]

    return forward


def everything_gone(model: Model, _run: Run) -> None:
    model.content.clear()


# reverts


def revert(newer: str) -> Callable[[Api, Run], None]:
    return lambda api, run: action(api, run.copy["volume"], "revert", snapshot_id=run.copy["0"], newer_snapshots=newer)


def reverted(newer: str) -> Callable[[Model, Run], None]:
    def forward(model: Model, run: Run) -> None:
        model.content[run.copy["volume"]] = model.content[run.copy["0"]]
        if newer == "remove":
            del model.content[run.copy["1"]]

    return forward


def arranged_revert(newer: str, then_extended: bool = False) -> Callable[[Stage], Copy]:
    """A volume that was reverted to its first snapshot; "before" is no file's id, but what the volume held before."""

    def arrange(stage: Stage) -> Copy:
        found, api = stage.grown((3, 4, 2)), stage.lab.api
        action(api, found["volume"], "revert", snapshot_id=found["0"], newer_snapshots=newer)
        wait_for(lambda: api.volume(found["volume"])["status"] == "available", "the revert", 60)
        if then_extended:
            action(api, found["volume"], "os-extend", new_size=2)
            wait_for(lambda: api.volume(found["volume"])["status"] == "available", "the extension", 60)
        held = {found["0"]: found.content[found["0"]], found["volume"]: found.content[found["0"]]}
        held |= {found["1"]: found.content[found["1"]]} if newer == "keep" else {}
        ids = {part: key for part, key in found.ids.items() if part == "volume" or key in held}
        return Copy(ids, held)

    return arrange


def as_before_the_revert(model: Model, run: Run) -> None:
    model.content[run.copy["volume"]] = {key: each for clusters in samples.written((3, 4, 2)) for key, each in clusters.items()}


def write_after_revert(stage: Stage, copy: Copy) -> None:
    """Housekeeping ends an undo that is no longer possible."""
    volume_id = copy["volume"]
    write(stage.share / stage.rows(volumes)[volume_id]["active_file"], {8: 88})


def with_what_was_written(model: Model, run: Run) -> None:
    volume_id = run.copy["volume"]
    model.content[volume_id] = {**model.content[volume_id], 8: 88}


def nothing_asked(_api: Api, _run: Run) -> None:
    """Housekeeping begins it."""


# backups


def saved(*weights: int, snapshot: str = "") -> Callable[[Stage], Copy]:
    """A volume with a full backup, of itself or of a snapshot."""

    def arrange(stage: Stage) -> Copy:
        found, api = stage.grown(weights), stage.lab.api
        wanted = {"volume_id": found["volume"]} | ({"snapshot_id": found[snapshot]} if snapshot else {})
        made = api.ok("volume", "POST", "/backups", {"backup": wanted})["backup"]["id"]
        wait_for(lambda: status_of_backup(api, made) == "available", "the backup", 60)
        content = found.content[found[snapshot or "volume"]]
        return Copy({**found.ids, "backup": made}, {**found.content, made: content})

    return arrange


def status_of_backup(api: Api, backup_id: str) -> str:
    return str(api.ok("volume", "GET", f"/backups/{backup_id}")["backup"]["status"])


def back_up(api: Api, run: Run) -> str:
    wanted = {"volume_id": run.copy["volume"], "incremental": "backup" in run.copy.ids}
    return str(api.ok("volume", "POST", "/backups", {"backup": wanted})["backup"]["id"])


def restore(over: bool) -> Callable[[Api, Run], str]:
    def ask(api: Api, run: Run) -> str:
        wanted = {"volume_id": run.copy["volume"]} if over else {}
        answer = api.ok("volume", "POST", f"/backups/{run.copy['backup']}/restore", {"restore": wanted})
        return str(answer["restore"]["volume_id"])

    return ask


def of_backup(run: Run) -> str:
    return run.copy["backup"]


def nothing(_stage: Stage) -> Copy:
    return Copy({})


def a_file(_stage: Stage) -> Copy:
    return Copy({"file": samples.OTHER})


def an_image(_stage: Stage) -> Copy:
    return Copy({"image": samples.OTHER})


def from_image(model: Model, run: Run) -> None:
    model.content[run.made] = SOURCE


SCENARIOS = (
    Scenario(
        "create_volume",
        nothing,
        lambda api, run: create(api, 2 + run.number),
        made_as(""),
        made_failed,
        about=lambda run: str((2 + run.number) * GIB),  # no id is known before
    ),
    Scenario(
        "copy_volume of a volume",
        grown(3),
        lambda api, run: create(api, source_volid=run.copy["volume"]),
        made_as("volume"),
        made_failed,
    ),
    Scenario(
        "copy_volume of a snapshot",
        grown(3, 2),
        lambda api, run: create(api, 2, snapshot_id=run.copy["0"]),
        made_as("0"),
        made_failed,
    ),
    Scenario(
        "link_volume",
        grown(3, 2),
        lambda api, run: create(api, snapshot_id=run.copy["0"], volume_type="linked"),
        made_as("0"),
        made_failed,
    ),
    Scenario(
        "delete_volume with snapshots",
        grown(3, 4, 2),
        lambda api, run: api.ok("volume", "DELETE", f"/volumes/{run.copy['volume']}?cascade=true"),
        everything_gone,
    ),
    Scenario(
        "delete_volume that is linked",
        linked,
        lambda api, run: api.ok("volume", "DELETE", f"/volumes/{run.copy['clone']}"),
        without("clone"),
        about=lambda run: run.copy["clone"],
    ),
    Scenario(
        "extend_volume",
        grown(3),
        lambda api, run: action(api, run.copy["volume"], "os-extend", new_size=2),
        lambda _model, _run: None,
        look=look_at_size,
    ),
    Scenario(
        "manage_volume",
        a_file,
        take_over,
        taken_over,
        left_where_it_was,
        lambda run: run.copy["file"],
        from_elsewhere,
        admin=True,
    ),
    Scenario(
        "unmanage_volume",
        grown(3),
        lambda api, run: action(api, run.copy["volume"], "os-unmanage"),
        abandoned_operations,
        admin=True,
    ),
    Scenario(
        "create_snapshot",
        grown(3, 2),
        snapshot,
        made_as("volume"),
        made_failed,
        look=write_after_snapshot,
    ),
    Scenario(
        "create_group_snapshot",
        two_volumes,
        snapshot_group,
        both_kept,
        both_failed,
        look=look_at_group_snapshot,
    ),
    deletes("down", (6, 2), 0),
    deletes("up", (2, 6), 0),
    deletes("up below the active file", (3, 2, 6), 1),
    deletes("in the middle", (6, 2, 3), 0),
    deletes("up in the middle", (3, 2, 6, 1), 1),
    deletes("all at once", (2, 3, 6, 2), 0, 1, 2),
    deletes("in two places", (6, 2, 1, 2, 6), 0, 2),
    Scenario("revert_volume keep", grown(3, 4, 2), revert("keep"), reverted("keep")),
    Scenario("revert_volume remove", grown(3, 4, 2), revert("remove"), reverted("remove")),
    Scenario(
        "undo_revert",
        arranged_revert("keep"),
        lambda api, run: action(api, run.copy["volume"], "os-undo_revert"),
        as_before_the_revert,
    ),
    Scenario(
        "undo_revert of an extended volume",
        arranged_revert("keep", then_extended=True),
        lambda api, run: action(api, run.copy["volume"], "os-undo_revert"),
        as_before_the_revert,
        look=look_at_size,
    ),
    Scenario(
        "release_files",
        arranged_revert("remove"),
        nothing_asked,
        with_what_was_written,
        with_what_was_written,
        prepare=write_after_revert,
    ),
    Scenario(
        "image_to_volume",
        an_image,
        lambda api, run: create(api, imageRef=run.copy["image"]),
        from_image,
        made_failed,
        lambda run: run.copy["image"],
        put_image,
    ),
    Scenario("volume_to_image", grown(3, 2), upload, lambda _model, _run: None, look=look_at_image),
    Scenario("create_backup", grown(3), back_up, made_as("volume"), made_failed),
    Scenario("create_backup incremental", saved(3), back_up, made_as("volume"), made_failed),
    Scenario("restore_backup into a new volume", saved(3, 2), restore(over=False), made_as("backup"), made_failed, of_backup),
    Scenario(
        "restore_backup over a volume",
        saved(3, 2, snapshot="0"),
        restore(over=True),
        lambda model, run: model.content.update({run.copy["volume"]: model.content[run.copy["backup"]]}),
        about=of_backup,
    ),
    Scenario(
        "delete_backup",
        saved(3),
        lambda api, run: api.ok("volume", "DELETE", f"/backups/{run.copy['backup']}"),
        without("backup"),
        about=of_backup,
    ),
    Scenario("record_chain", grown(3, 2), rename_snapshot, lambda _model, _run: None),
)
