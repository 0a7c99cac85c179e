"""Runs Stillframe as an operator would: ``stillframe serve`` as a process of its own, spoken to over REST."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import yaml

from stillframe.host import private_libvirt
from stillframe.host.hypervisor import Hypervisor
from stillframe.journal.failpoints import VARIABLE
from tests.support.service import Begin, Command, Service

Read = TypeVar("Read")


class Refused(dict[str, Any]):
    """A set that was refused with 409 before anything began: ``status`` and ``fault``. Whoever reads more expected a set."""

    def __init__(self, told: str) -> None:
        super().__init__(status="refused", fault=told)

    def __missing__(self, key: str) -> Any:
        raise AssertionError(f"the set was refused, so it has no {key}: {self['fault']}")


class Api:
    """One user's view of both services."""

    def __init__(self, cloud: dict[str, Any]) -> None:
        self._cloud = cloud
        self._session = requests.Session()
        self._session.auth = (cloud["auth"]["username"], cloud["auth"]["password"])

    def send(self, service: str, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        """Sends one request to "volume" or "compute"; ``more`` goes to requests as it is."""
        key = "block_storage_endpoint_override" if service == "volume" else "compute_endpoint_override"
        version = "volume 3.71" if service == "volume" else "compute 2.90"
        headers = {"OpenStack-API-Version": version, "Stillframe-Additions": "1", **more.pop("headers", {})}
        if body is not None:
            more["json"] = body
        more.setdefault("verify", self._cloud.get("cacert", True))
        return self._session.request(method, self._cloud[key] + path, headers=headers, timeout=60, **more)

    def port(self, service: str) -> int:
        key = "block_storage_endpoint_override" if service == "volume" else "compute_endpoint_override"
        return int(urlsplit(self._cloud[key]).port or 80)

    def ok(self, service: str, method: str, path: str, body: Any = None) -> Any:
        answer = self.send(service, method, path, body)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def volume(self, volume_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("volume", "GET", f"/volumes/{volume_id}")["volume"]
        return found

    def snapshot(self, snapshot_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("volume", "GET", f"/snapshots/{snapshot_id}")["snapshot"]
        return found

    def set(self, set_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("compute", "GET", f"/os-assisted-snapshots/{set_id}")["assisted_snapshot"]
        return found

    def create_volume(self, name: str = "v", size: int = 1, **more: Any) -> str:
        """Creates a volume and waits until it is available."""
        made = self.ok("volume", "POST", "/volumes", {"volume": {"name": name, "size": size, **more}})["volume"]
        wait_for(lambda: self.volume(made["id"])["status"] == "available", "the volume")
        return str(made["id"])

    def attach(self, server_id: str, volume_id: str) -> None:
        """Attaches a volume and waits until it is in use."""
        self._attach(server_id, volume_id)
        wait_for(lambda: self.volume(volume_id)["status"] == "in-use", "the attachment")

    def _attach(self, server_id: str, volume_id: str) -> None:
        body = {"volumeAttachment": {"volumeId": volume_id}}

        def accepted() -> bool:
            answer = self.send("compute", "POST", f"/servers/{server_id}/os-volume_attachments", body)
            assert answer.status_code in (200, 409), answer.text
            return answer.status_code == 200

        wait_for(accepted, "the server to be free for another attachment")

    def detach(self, server_id: str, volume_id: str) -> None:
        self.ok("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")
        wait_for(lambda: self.volume(volume_id)["status"] == "available", "the detachment", 60)

    def take(self, server_id: str, **wanted: Any) -> dict[str, Any]:
        """Takes an assisted snapshot and waits until it is available or error. A refusal is returned as ``Refused``."""
        answer = self.send("compute", "POST", f"/servers/{server_id}/os-assisted-snapshots", {"assisted_snapshot": wanted})
        if answer.status_code == 409:
            return Refused(answer.text)
        assert answer.status_code < 400, answer.text
        return self.wait_set(answer.json()["assisted_snapshot"]["id"])

    def wait_set(self, set_id: str, seconds: float = 150) -> dict[str, Any]:
        wait_for(lambda: self.set(set_id)["status"] != "creating", "the assisted snapshot", seconds)
        return self.set(set_id)


def wait_for(what: Callable[[], bool], name: str, seconds: float = 90) -> None:
    """Asks again and again, less often the longer it takes, because most questions are requests."""
    start = time.monotonic()
    while not what():
        waited = time.monotonic() - start
        if waited > seconds:
            raise AssertionError(f"{name} did not come within {seconds:g} s")
        time.sleep(min(max(0.05, waited / 10), 0.4))


def read_when_there(read: Callable[[], Read], seconds: float = 60) -> Read:
    """Reads a volume's active file. A lone one that nobody has open gets its own name at some moment, perhaps at this one."""
    end = time.monotonic() + seconds
    while True:
        try:
            return read()
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class Stack:
    """One state directory and the ``serve`` process over it; restarts find what the one before left."""

    def __init__(self, state_dir: Path, arguments: Sequence[str] = (), begin: Begin = Command) -> None:
        self.state_dir = state_dir
        self._arguments = list(arguments)
        self._begin = begin
        self._service: Service | None = None
        self._apis: dict[tuple[str, str], Api] = {}
        self.log = state_dir.parent / f"{state_dir.name}.log"

    def start(self, failpoint: str = "") -> None:
        """Starts the services and waits until they are ready. ``failpoint`` kills them at that place (see journal)."""
        arguments = ["serve", "--state-dir", str(self.state_dir), "--volumes-port", "0", "--compute-port", "0"]
        self._service = self._begin([*arguments, *self._arguments], self.log, {VARIABLE: failpoint})
        line = self._service.line()
        assert line.startswith("ready"), f"serve said {line!r}\n{self.tail()}"

    @property
    def pid(self) -> int:
        assert self._service is not None
        return self._service.pid

    @property
    def running(self) -> bool:
        return self._service is not None and self._service.code() is None

    def wait_killed(self, seconds: float = 60) -> None:
        """Waits until a failpoint has killed the process."""
        assert self._service is not None
        code = self._service.wait(seconds)
        assert code is not None, f"the failpoint was not reached\n{self.tail()}"
        assert code == -signal.SIGKILL, self.tail()
        self._service.forget()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        assert self._end(signal.SIGTERM) in (0, None), self.tail()

    def _end(self, number: int) -> int | None:
        """Returns the exit code, None when nothing ran."""
        if self._service is None:
            return None
        code = None
        if self.running:
            self._service.signal(number)
            code = self._service.wait(60)
            assert code is not None, f"it has not ended after 60 s\n{self.tail()}"
        self._service.forget()
        return code

    def tail(self) -> str:
        return self.log.read_text()[-4000:]

    @property
    def share(self) -> Path:
        return self.state_dir / "share"

    @property
    def hypervisor(self) -> Hypervisor:
        return Hypervisor(private_libvirt.uri(self.state_dir / "libvirt"))

    def api(self, cloud: str = "stillframe") -> Api:
        """The same one until the services start anew: reading YAML costs more than a request."""
        text = (self.state_dir / "clouds.yaml").read_text()
        if (text, cloud) not in self._apis:
            self._apis[text, cloud] = Api(yaml.safe_load(text)["clouds"][cloud])
        return self._apis[text, cloud]

    def service_api(self) -> Api:
        """The service user's view."""
        known = yaml.safe_load((self.state_dir / "service.yaml").read_text())
        auth = {"username": known["username"], "password": known["password"]}
        return Api(
            {
                "auth": auth,
                "block_storage_endpoint_override": known["volume"],
                "compute_endpoint_override": known["compute"],
            }
        )

    def destroy(self) -> None:
        """Stops the services and the private libvirt daemon; guests must be gone."""
        self.kill()
        private_libvirt.stop(self.state_dir / "libvirt")
