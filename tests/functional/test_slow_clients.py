"""Somebody leans on the port of services that run, plain or TLS, from an address of the loopback network of its own."""

import base64
import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml

from tests.support.certificates import Authority
from tests.support.lab import Lab, open_lab
from tests.support.service import Command
from tests.support.slow_clients import Way, crowd
from tests.support.stack import wait_for

ATTACKER = "127.0.0.66"


@dataclass(frozen=True)
class Site:
    """Running services, and how they are spoken to."""

    lab: Lab
    way: Way

    def connection(self, address: str = "127.0.0.1") -> http.client.HTTPConnection:
        port, source = self.lab.api.port("volume"), (address, 0)
        if self.way.trusted is None:
            return http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=source)
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=60, source_address=source, context=self.way.trusted)


@pytest.fixture(scope="module", params=["plain", "TLS"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory, options, way = tmp_path_factory.mktemp("services"), "", Way()
    if request.param == "TLS":
        authority = Authority(directory)
        options, way = authority.options(), authority.way()
    lab = open_lab(directory, options, begin=Command)
    try:
        yield Site(lab, way)
    finally:
        lab.clear()


def guess(site: Site, name: str, password: str) -> tuple[int, str | None]:
    """Sends one request from the attacker's address; returns the status and Retry-After."""
    connection = site.connection(ATTACKER)
    try:
        secret = base64.b64encode(f"{name}:{password}".encode()).decode()
        connection.request("GET", "/v3/volumes", headers={"Authorization": f"Basic {secret}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Retry-After")
    finally:
        connection.close()


@pytest.mark.parametrize("site", ["plain"], indirect=True)  # what is counted is not how it came
def test_wrong_passwords_are_checked_a_bounded_number_of_times_and_stop_nobody_else(site: Site) -> None:
    cloud = yaml.safe_load((site.lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
    name = cloud["auth"]["username"]
    with ThreadPoolExecutor(4) as threads:
        one_name = list(threads.map(lambda number: guess(site, name, f"wrong{number}"), range(60)))
        many_names = list(threads.map(lambda number: guess(site, f"n{number}", "wrong"), range(120)))
    for answers, most in ((one_name, 45), (many_names, 90)):
        assert {status for status, _ in answers} == {401, 429}
        assert sum(status == 401 for status, _ in answers) <= most
        assert all((after is not None and int(after) >= 1) is (status == 429) for status, after in answers)
    assert site.lab.api.send("volume", "GET", "/volumes").status_code == 200


def healthy(site: Site) -> int:
    connection = site.connection()
    try:
        connection.request("GET", "/healthcheck")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_idle_dripping_and_slow_connections_stop_nobody(site: Site) -> None:
    """Eight idle connections stopped a service for good. A snapshot needs both services and their word to each other."""
    api = site.lab.api
    volume_id = api.create_volume("leant-on")
    with (
        crowd(api.port("volume"), way=site.way),
        crowd(api.port("compute"), idle=200, dripping=20, slow=20, way=site.way),
    ):
        for service, path in (("volume", "/volumes"), ("compute", "/servers")) * 10:
            assert api.send(service, "GET", path).status_code == 200
        body = {"snapshot": {"volume_id": volume_id, "name": "meanwhile"}}
        snapshot_id = api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
        wait_for(lambda: api.snapshot(snapshot_id)["status"] == "available", "the snapshot")
    api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
    wait_for(lambda: api.send("volume", "GET", f"/snapshots/{snapshot_id}").status_code == 404, "the deletion")


def test_two_hundred_clients_that_connect_at_one_moment_are_all_served(site: Site) -> None:
    together = threading.Barrier(200)

    def ask(_: int) -> int:
        together.wait()
        return healthy(site)

    with ThreadPoolExecutor(200) as threads:
        assert list(threads.map(ask, range(200))) == [200] * 200
