"""Somebody leans on the port of services that run, from an address of the loopback network of its own."""

import base64
import http.client
from concurrent.futures import ThreadPoolExecutor

import yaml

from tests.support.lab import Lab

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
    port = int(str(cloud["volume_endpoint_override"]).rsplit("/", 1)[0].rsplit(":", 1)[1])
    name = cloud["auth"]["username"]
    with ThreadPoolExecutor(4) as threads:
        one_name = list(threads.map(lambda number: guess(port, name, f"wrong{number}"), range(60)))
        many_names = list(threads.map(lambda number: guess(port, f"n{number}", "wrong"), range(120)))
    for answers, most in ((one_name, 45), (many_names, 90)):
        assert {status for status, _ in answers} == {401, 429}
        assert sum(status == 401 for status, _ in answers) <= most
        assert all((after is not None and int(after) >= 1) is (status == 429) for status, after in answers)
    assert services.api.send("volume", "GET", "/volumes").status_code == 200
