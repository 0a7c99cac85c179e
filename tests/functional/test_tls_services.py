"""``stillframe serve`` with certificates: unmodified clients, the other service, a new certificate, a wrong one."""

import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from stillframe.errors import ServiceUnavailable
from stillframe.service_client.session import Endpoint, Session
from tests.support.certificates import Authority
from tests.support.lab import Lab, open_lab
from tests.support.openstack_client import openstack
from tests.support.service import PROGRAM, Command
from tests.support.stack import wait_for


@dataclass(frozen=True)
class Site:
    lab: Lab
    authority: Authority

    @property
    def cloud(self) -> dict[str, str]:
        found: dict[str, str] = yaml.safe_load(self.clouds.read_text())["clouds"]["stillframe"]
        return found

    @property
    def clouds(self) -> Path:
        return self.lab.stack.state_dir / "clouds.yaml"

    def shown(self, service: str) -> str:
        host = {"volume": "127.0.0.1", "compute": "::1"}[service]
        return ssl.get_server_certificate((host, self.lab.api.port(service)), timeout=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("services")
    authority = Authority(directory)
    options = authority.options().replace("[compute]\n", "[compute]\nlisten = ::1\n")
    lab = open_lab(directory, options, begin=Command)
    try:
        yield Site(lab, authority)
    finally:
        lab.clear()


def test_clients_verify_the_services_by_what_clouds_yaml_names(site: Site) -> None:
    assert site.cloud["cacert"] == str(site.authority.cafile)
    assert site.cloud["block_storage_endpoint_override"].startswith("https://127.0.0.1:")
    assert site.cloud["compute_endpoint_override"].startswith("https://[::1]:")
    environment = {"OS_CLIENT_CONFIG_FILE": str(site.clouds), "OS_CLOUD": "stillframe"}
    for words in (["volume", "list"], ["server", "list"], ["assisted", "snapshot", "list"]):
        answer = openstack(words, environment)
        assert answer.returncode == 0, answer.stderr
    alone = [*PROGRAM, "assisted-snapshot", "list", "-f", "json"]
    answer = subprocess.run(alone, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


def test_a_client_that_trusts_others_sends_no_password(site: Site, tmp_path: Path) -> None:
    environment = {"OS_CLIENT_CONFIG_FILE": str(site.clouds), "OS_CLOUD": "stillframe"}
    other, log = Authority(tmp_path).cafile, site.lab.stack.log
    before = log.read_text().count(" -> ")
    answer = openstack(["--os-cacert", str(other), "assisted", "snapshot", "list"], environment)
    assert answer.returncode == 1
    assert log.read_text().count(" -> ") == before
    answer = openstack(["--os-cacert", str(site.authority.cafile), "assisted", "snapshot", "list"], environment)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("trusted", [True, False])
def test_a_service_verifies_another_one(site: Site, tmp_path: Path, trusted: bool) -> None:
    cafile = str((site.authority if trusted else Authority(tmp_path)).cafile)
    known = yaml.safe_load((site.lab.stack.state_dir / "service.yaml").read_text())
    url = site.cloud["block_storage_endpoint_override"]
    session = Session(Endpoint("volume", url, known["username"], known["password"], "3.71", cafile=cafile))
    if trusted:
        assert session.call("GET", "/volumes") == {"volumes": []}
    else:
        with pytest.raises(ServiceUnavailable, match="certificate verify failed"):
            session.call("GET", "/volumes")


def test_links_say_https(site: Site) -> None:
    url = site.cloud["block_storage_endpoint_override"]
    (entry,) = requests.get(url, verify=site.cloud["cacert"], timeout=30).json()["versions"]
    assert {link["href"] for link in entry["links"] if link["rel"] == "self"} == {f"{url}/"}


def test_a_new_certificate_is_read_on_a_hangup_and_a_wrong_one_is_not_taken(site: Site) -> None:
    before = site.shown("volume")
    fresh = site.authority.pair("fresh")
    server = site.authority.pair("server")  # in place of the one that is shown
    os.kill(site.lab.stack.pid, signal.SIGHUP)
    wait_for(lambda: site.shown("volume") != before, "the new certificate")
    wait_for(lambda: site.shown("compute") == site.shown("volume"), "that of the other service")
    now = site.shown("volume")
    os.replace(fresh.certificate, server.certificate)  # without its key
    os.kill(site.lab.stack.pid, signal.SIGHUP)
    wait_for(lambda: "the former certificate stays in use" in site.lab.stack.log.read_text(), "the complaint")
    assert site.shown("volume") == now
    assert site.lab.stack.running


def test_services_with_a_wrong_certificate_do_not_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    old = authority.pair("old", days=-1)
    (tmp_path / "stillframe.conf").write_text(f"[compute]\ntls_certificate = {old.certificate}\ntls_key = {old.key}\n")
    command = [*PROGRAM, "serve", "--state-dir", str(tmp_path / "state"), "--config-file", str(tmp_path / "stillframe.conf")]
    answer = subprocess.run(
        [*command, "--volumes-port", "0", "--compute-port", "0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 1
    assert "old.pem: a client refuses it: certificate has expired" in answer.stderr
    assert not (tmp_path / "state" / "clouds.yaml").exists()
