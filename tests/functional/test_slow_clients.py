"""Somebody leans on the port of services that run, from an address of the loopback network of its own."""

import base64
import http.client
import threading
from concurrent.futures import ThreadPoolExecutor

import yaml

from tests.support.lab import Lab
from tests.support.slow_clients import crowd
from tests.support.stack import wait_for

ATTACKER = "127.0.0.66"


def guess(port: int, name: str, password: str) -> tuple[int, str | None]:
    """Sends one request from the attacker's address; returns the status and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(ATTACKER, 0))
    try:
        secret = base64.b64encode(f"{name}:{password}".encode()).decode()
        connection.request("GET", "/v3/volumes", headers={"Authorization": f"Basic {secret}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Retry-After")
    finally:
        connection.close()


def test_wrong_passwords_are_checked_a_bounded_number_of_times_and_stop_nobody_else(services: Lab) -> None:
    cloud = yaml.safe_load((services.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
    port = services.api.port("volume")
    name = cloud["auth"]["username"]
    with ThreadPoolExecutor(4) as threads:
        one_name = list(threads.map(lambda number: guess(port, name, f"wrong{number}"), range(60)))
        many_names = list(threads.map(lambda number: guess(port, f"n{number}", "wrong"), range(120)))
    for answers, most in ((one_name, 45), (many_names, 90)):
        assert {status for status, _ in answers} == {401, 429}
        assert sum(status == 401 for status, _ in answers) <= most
        assert all((after is not None and int(after) >= 1) is (status == 429) for status, after in answers)
    assert services.api.send("volume", "GET", "/volumes").status_code == 200


def healthy(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/healthcheck")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_idle_dripping_and_slow_connections_stop_nobody(services: Lab) -> None:
    """Eight idle connections stopped a service for good. A snapshot needs both services and their word to each other."""
    volume_id = services.api.create_volume("leant-on")
    with crowd(services.api.port("volume")), crowd(services.api.port("compute"), idle=200, dripping=20, slow=20):
        for service, path in (("volume", "/volumes"), ("compute", "/servers")) * 10:
            assert services.api.send(service, "GET", path).status_code == 200
        body = {"snapshot": {"volume_id": volume_id, "name": "meanwhile"}}
        snapshot_id = services.api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
        wait_for(lambda: services.api.snapshot(snapshot_id)["status"] == "available", "the snapshot")
    services.api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
    wait_for(lambda: services.api.send("volume", "GET", f"/snapshots/{snapshot_id}").status_code == 404, "the deletion")


def test_two_hundred_clients_that_connect_at_one_moment_are_all_served(services: Lab) -> None:
    port, together = services.api.port("volume"), threading.Barrier(200)

    def ask(_: int) -> int:
        together.wait()
        return healthy(port)

    with ThreadPoolExecutor(200) as threads:
        assert list(threads.map(ask, range(200))) == [200] * 200
