"""HAProxy and nginx in front of the services, as the examples in ``deploy/`` have it."""

import base64
import http.client
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from tests.support import slow_clients
from tests.support.certificates import Authority
from tests.support.lab import Lab, open_lab
from tests.support.proxies import Proxy, free_port
from tests.support.service import Command

HONEST = "127.0.0.65"


@dataclass(frozen=True)
class Site:
    """Services, a proxy in front of them, and who trusts it."""

    lab: Lab
    behind: dict[str, int]
    proxy: Proxy
    authority: Authority
    attacker: str  # an address nobody else uses

    @property
    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.cafile))

    def ask(self, address: str, password: str | None = None, **headers: str) -> int:
        """Asks block storage through the proxy, from an address of the loopback network; returns the status."""
        cloud = yaml.safe_load((self.lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
        name, known = cloud["auth"]["username"], cloud["auth"]["password"]
        secret = base64.b64encode(f"{name}:{known if password is None else password}".encode()).decode()
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.proxy.ports["volume"], timeout=60, source_address=(address, 0), context=self.trusted
        )
        try:
            connection.request("GET", "/v3/volumes", headers={"Authorization": f"Basic {secret}", **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, dict[str, int]]]:
    behind = {"volume": free_port(), "compute": free_port()}
    ports = ["--volumes-port", str(behind["volume"]), "--compute-port", str(behind["compute"])]
    options = "[DEFAULT]\ntrusted_proxies = 127.0.0.1\nmax_connections_per_peer = 300\n"
    lab = open_lab(tmp_path_factory.mktemp("services"), options, ports, begin=Command)
    try:
        for name in ("one", "two"):
            lab.api.create_volume(name)
        yield lab, behind
    finally:
        lab.clear()


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def site(
    services: tuple[Lab, dict[str, int]], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    lab, behind = services
    directory = tmp_path_factory.mktemp(request.param)
    authority = Authority(directory)
    proxy = Proxy(request.param, directory, authority.pair("server"), behind)
    yield Site(lab, behind, proxy, authority, {"haproxy": "127.0.0.66", "nginx": "127.0.0.67"}[request.param])
    proxy.stop()


def test_links_lead_through_the_proxy(site: Site) -> None:
    cloud = yaml.safe_load((site.lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
    with requests.Session() as session:
        session.auth = (cloud["auth"]["username"], cloud["auth"]["password"])
        begin = f"https://127.0.0.1:{site.proxy.ports['volume']}/"
        url, names = f"{begin}v3/volumes/detail?limit=1", set()
        while url:
            assert url.startswith(begin)
            page = session.get(url, verify=str(site.authority.cafile), timeout=60).json()
            names |= {each["name"] for each in page["volumes"]}
            assert all(
                link["href"].startswith(begin) for each in page["volumes"] for link in each["links"] if link["rel"] == "self"
            )
            url = next((each["href"] for each in page.get("volumes_links", [])), "")
        assert names >= {"one", "two"}
        begin = f"https://127.0.0.1:{site.proxy.ports['compute']}/"
        versions = session.get(begin, verify=str(site.authority.cafile), timeout=60).json()["versions"]
        assert all(link["href"].startswith(begin) for each in versions for link in each["links"] if link["rel"] == "self")


def test_a_guesser_behind_a_proxy_stops_nobody_else_and_cannot_pose_as_another(site: Site) -> None:
    def guess(number: int) -> int:
        return site.ask(site.attacker, f"wrong{number}", **{"X-Forwarded-For": f"198.51.100.{number}"})

    with ThreadPoolExecutor(4) as threads:
        guesses = list(threads.map(guess, range(70)))
    assert set(guesses) == {401, 429}
    assert sum(status == 401 for status in guesses) < 50
    assert site.ask(HONEST, "wrong") == 401  # a client of its own
    assert site.ask(HONEST) == 200


def test_a_peer_that_is_not_a_proxy_is_not_believed(site: Site) -> None:
    """Straight at the port, from another address than the proxy's: the links are those of the port."""
    connection = http.client.HTTPConnection("127.0.0.1", site.behind["volume"], timeout=60, source_address=(site.attacker, 0))
    connection.request("GET", "/v3", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "elsewhere.example"})
    answer = connection.getresponse().read()
    connection.close()
    assert f"http://127.0.0.1:{site.behind['volume']}/".encode() in answer
    assert b"https://" not in answer.replace(b"https://docs", b"") and b"elsewhere" not in answer


def test_two_hundred_clients_at_one_moment_are_all_served(site: Site) -> None:
    together = threading.Barrier(200)

    def ask(_: int) -> int:
        together.wait()
        return site.ask(HONEST)

    with ThreadPoolExecutor(200) as threads:
        assert set(threads.map(ask, range(200))) == {200}


def test_slow_clients_are_held_by_the_proxy(site: Site) -> None:
    """They have no connection to the service, and their requests are not half there."""
    body = b"POST /v3/volumes HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
    head = b"GET /v3/volumes HTTP/1.1\r\nHost: a\r\nX-Much: "
    before = _connections(site.behind["volume"])
    held = []
    try:
        for number in range(300):
            held.append(slow_clients.connected(site.proxy.ports["volume"], site.attacker, trusted=site.trusted))
            held[-1].sendall((body, head)[number % 2])
        for _ in range(10):
            assert site.ask(HONEST) == 200
        assert _connections(site.behind["volume"]) <= before + 20
    finally:
        for each in held:
            each.close()


def _connections(port: int) -> int:
    """Established ones to that port of this host."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01")
