"""docs/reference/while-a-merge-runs.md, row by row, against a merge that runs."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from tests.support.site import Disk, Site, open_site
from tests.support.stack import wait_for

PAGE = Path(__file__).parents[2] / "docs/reference/while-a-merge-runs.md"
ROW = re.compile(r"^\| (?P<request>[a-z][^|]+?) \| (?P<answer>\w+) \| (?P<outcome>[^|]+) \|$", re.MULTILINE)
Answer = tuple[int, str]


class Scenario:
    """``merging`` has a slow merge; ``other`` a snapshot that can be merged; ``quiet`` one that is only read."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.merging, self.other, self.quiet = site.disks
        self.kept = site.arrange("commit", self.quiet)
        self.pulled = site.arrange("pull", self.other)
        self.doomed = site.arrange("commit", self.merging, 320)
        self.second = list(self.merging.held)[1]
        self.spare = site.lab.api.create_volume("spare")
        self.server = f"/servers/{site.lab.guest.id}"

    def begin(self) -> None:
        self.site.delete(self.doomed, "?bandwidth_mib=1")
        self.site.wait_jobs(self.merging)
        domain = self.site.lab.guest.domain
        domain.blockJobSetSpeed(self.merging.target, 128 << 10, libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)

    def send(self, service: str, method: str, path: str, body: Any = None, admin: bool = False) -> Answer:
        api = self.site.lab.stack.api("stillframe-admin") if admin else self.site.lab.api
        answer = api.send(service, method, path, body)
        return answer.status_code, answer.text

    def volume_action(self, disk: Disk, body: Any, admin: bool = False) -> Answer:
        return self.send("volume", "POST", f"/volumes/{disk.id}/action", body, admin)

    def server_action(self, body: Any) -> Answer:
        return self.send("compute", "POST", f"{self.server}/action", body)

    def extend(self, disk: Disk) -> Answer:
        return self.volume_action(disk, {"os-extend": {"new_size": 2}})

    def extend_another(self) -> Answer:
        answer = self.extend(self.quiet)
        wait_for(lambda: self.site.lab.api.volume(self.quiet.id)["status"] == "in-use", "the end of the extension")
        assert self.site.lab.api.volume(self.quiet.id)["size"] == 2
        assert self.site.lab.guest.execute(f"cat /sys/block/{self.quiet.target}/size").strip() == str(2 << 21)
        return answer

    def back_up(self, disk: Disk, snapshot_id: str) -> Answer:
        body = {"backup": {"volume_id": disk.id, "snapshot_id": snapshot_id, "force": True}}
        answer = self.send("volume", "POST", "/backups", body)
        if answer[0] == 202:
            wait_for(lambda: self._all("backups") == {"available"}, "the backup")
        return answer

    def clone(self, snapshot_id: str) -> Answer:
        answer = self.send("volume", "POST", "/volumes", {"volume": {"snapshot_id": snapshot_id, "size": 2}})
        if answer[0] == 202:
            wait_for(lambda: self._all("volumes") <= {"available", "in-use"}, "the volume")
        return answer

    def _all(self, what: str) -> set[str]:
        return {each["status"] for each in self.site.lab.api.ok("volume", "GET", f"/{what}/detail")[what]}

    def delete_another_volumes(self) -> Answer:
        answer = self.send("volume", "DELETE", f"/snapshots/{self.pulled}")
        wait_for(lambda: len(self.unfinished("compute")) == 2, "the merge to stand in line")
        assert not self.site.job(self.other)
        return answer

    def cancel_another_volumes(self) -> Answer:
        answer = self.send("volume", "POST", f"/snapshots/{self.pulled}/action", {"os-cancel_deletion": None})
        self.site.ended(self.pulled)
        assert self.site.lab.api.snapshot(self.pulled)["status"] == "available"
        return answer

    def migrate(self) -> Answer:
        uri = self.site.lab.guest.hypervisor.uri
        command = ["virsh", "-c", uri, "migrate", "--live", self.site.lab.guest.id, uri]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "block job" in done.stderr, done.stderr
        return 0, "refused"

    def pause(self) -> Answer:
        before = self.site.job(self.merging)["cur"]
        answer = self.server_action({"pause": None})
        wait_for(lambda: self.site.job(self.merging)["cur"] > before, "the merge to go on")
        return answer

    def reboot(self) -> Answer:
        ready = self.site.lab.guest.text().count("guest: ready")
        answer = self.server_action({"reboot": {"type": "HARD"}})
        self.site.wait_up(ready)
        return answer

    def stop(self) -> Answer:
        answer = self.server_action({"os-stop": None})
        wait_for(lambda: not self.site.lab.guest.domain.isActive(), "the guest to stop")
        return answer

    def rename(self, kind: str, each: str) -> Answer:
        return self.send("volume", "PUT", f"/{kind}s/{each}", {kind: {"name": "renamed"}})

    def requests(self) -> dict[str, Callable[[], Answer]]:
        attachments, sets = f"{self.server}/os-volume_attachments", f"{self.server}/os-assisted-snapshots"
        return {
            "detach the volume": lambda: self.send("compute", "DELETE", f"{attachments}/{self.merging.id}"),
            "detach another volume": lambda: self.send("compute", "DELETE", f"{attachments}/{self.quiet.id}"),
            "attach a volume to the server": lambda: self.send(
                "compute", "POST", attachments, {"volumeAttachment": {"volumeId": self.spare}}
            ),
            "take an assisted snapshot of the server": lambda: self.send("compute", "POST", sets, {"assisted_snapshot": {}}),
            "take a snapshot of the volume through block storage": lambda: self.send(
                "volume", "POST", "/snapshots", {"snapshot": {"volume_id": self.merging.id, "force": True}}
            ),
            "extend the volume": lambda: self.extend(self.merging),
            "extend another volume": self.extend_another,
            "revert the volume": lambda: self.volume_action(self.merging, {"revert": {"snapshot_id": self.second}}),
            "delete the same snapshot again": lambda: self.send("volume", "DELETE", f"/snapshots/{self.doomed}"),
            "delete another snapshot of the volume": lambda: self.send("volume", "DELETE", f"/snapshots/{self.second}"),
            "delete a snapshot of another volume": self.delete_another_volumes,
            "cancel the deletion of the other volume's snapshot": self.cancel_another_volumes,
            "back up another snapshot of the volume": lambda: self.back_up(self.merging, self.second),
            "back up a snapshot of another volume": lambda: self.back_up(self.quiet, self.kept),
            "create a volume from another snapshot of the volume": lambda: self.clone(self.second),
            "create a volume from a snapshot of another volume": lambda: self.clone(self.kept),
            "upload the volume to an image": lambda: self.volume_action(
                self.merging, {"os-volume_upload_image": {"image_name": "copy"}}
            ),
            "reset the status of the volume": lambda: self.volume_action(
                self.merging, {"os-reset_status": {"status": "error"}}, admin=True
            ),
            "force the deletion of the snapshot": lambda: self.send(
                "volume", "POST", f"/snapshots/{self.doomed}/action", {"os-force_delete": {}}, admin=True
            ),
            "rename the volume": lambda: self.rename("volume", self.merging.id),
            "rename the snapshot": lambda: self.rename("snapshot", self.second),
            "migrate the server with libvirt": self.migrate,
            "pause the server": self.pause,
            "unpause the server": lambda: self.server_action({"unpause": None}),
            "reboot the server": self.reboot,
            "stop the server": self.stop,
            "start the server before that has ended": lambda: self.server_action({"os-start": None}),
        }

    def in_the_way(self) -> set[str]:
        """The unfinished operations on the volume and the server."""
        rows = self.unfinished("volumes") + self.unfinished("compute")
        return {str(row["id"]) for row in rows if row["intent"].get("volume_id") == self.merging.id}

    def unfinished(self, service: str) -> list[Any]:
        database = Database(f"sqlite:///{self.site.lab.stack.state_dir}/stillframe.sqlite")
        with database.read() as connection:
            rows = operations.unfinished(connection, service)
        database.close()
        return rows

    def state(self) -> Any:
        """What no refused request may change."""
        api = self.site.lab.api
        volumes = api.ok("volume", "GET", "/volumes/detail")["volumes"]
        snapshots = api.ok("volume", "GET", "/snapshots/detail")["snapshots"]
        return (
            sorted((each["id"], each["status"], each["size"], len(each["attachments"])) for each in volumes),
            sorted((each["id"], each["status"]) for each in snapshots),
            api.ok("compute", "GET", f"{self.server}/os-volume_attachments"),
            api.ok("compute", "GET", f"{self.server}/os-assisted-snapshots"),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("table"), 3) as opened:
        yield opened


def test_every_row_of_the_page_holds(site: Site) -> None:
    scenario = Scenario(site)
    rows = [(found["request"], found["answer"], found["outcome"]) for found in ROW.finditer(PAGE.read_text())]
    requests = scenario.requests()
    assert [name for name, _, _ in rows] == sorted(requests, key=[name for name, _, _ in rows].index)
    site.arm("merge/offline:sleep=4")  # so that something can be asked before the merge of a stopped server has ended
    scenario.begin()
    for name, wanted, outcome in rows:
        before, holding = scenario.state(), scenario.in_the_way()
        assert holding, f"the merge had ended before: {name}"
        status, text = requests[name]()
        assert (str(status) if status else text) == wanted, (name, text)
        if wanted == "409":
            assert any(each in text for each in holding) or "which runs" in text, (name, text)
        if outcome.startswith("nothing"):
            assert scenario.state() == before, name
    site.gone(scenario.doomed)
    site.look()
    site.restart_guest()
    site.look()
