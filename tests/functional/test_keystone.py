"""Our services behind a real Keystone: its tokens let people in, and the services call each other with tokens of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.guest.domain import GuestOptions
from tests.support.keystone import REGION, Keystone, keystone
from tests.support.lab import Lab, open_lab
from tests.support.service import PROGRAM
from tests.support.stack import wait_for

OPTIONS = """[auth]
strategy = keystone
[keystone]
auth_url = {auth_url}
username = stillframe
password_file = {password_file}
cache_seconds = 0
[compute]
default_project = {project}
"""


@dataclass
class Site:
    keystone: Keystone
    lab: Lab

    def send(self, who: str | None, service: str, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        """Sends one request to "volume" or "compute" with a new token of ``who``."""
        known = yaml.safe_load((self.lab.stack.state_dir / "service.yaml").read_text())
        headers = {"OpenStack-API-Version": "volume 3.71" if service == "volume" else "compute 2.90"}
        if who is not None:
            headers["X-Auth-Token"] = self.keystone.token(who)
        headers.update(more.pop("headers", {}))
        return requests.request(method, known[service] + path, json=body, headers=headers, timeout=60, **more)

    def ok(self, who: str, service: str, method: str, path: str, body: Any = None) -> Any:
        answer = self.send(who, service, method, path, body)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}\n{self.lab.stack.tail()}"
        return answer.json() if answer.content else None

    def status(self, volume_id: str) -> str:
        answer = self.send("boss", "volume", "GET", f"/volumes/{volume_id}")
        return str(answer.json()["volume"]["status"]) if answer.ok else "gone"

    def create_volume(self, who: str) -> str:
        made = self.ok(who, "volume", "POST", "/volumes", {"volume": {"name": f"of {who}", "size": 1}})["volume"]
        wait_for(lambda: self.status(made["id"]) == "available", "the volume")
        return str(made["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("keystone")
    with keystone(directory) as identity:
        options = OPTIONS.format(
            auth_url=identity.url, password_file=identity.password_file("stillframe"), project=identity.projects["demo"]
        )
        lab = open_lab(directory, options)
        try:
            known = yaml.safe_load((lab.stack.state_dir / "service.yaml").read_text())
            identity.add_service("cinder", "block-storage", known["volume"])
            identity.add_service("nova", "compute", known["compute"])
            yield Site(identity, lab)
        finally:
            lab.clear()


def test_people_see_their_own_projects_volumes(site: Site) -> None:
    mine, theirs = site.create_volume("member"), site.create_volume("stranger")
    for who, own, other in (("member", mine, theirs), ("stranger", theirs, mine)):
        listed = {volume["id"] for volume in site.ok(who, "volume", "GET", "/volumes")["volumes"]}
        assert own in listed
        assert other not in listed
        assert site.send(who, "volume", "GET", f"/volumes/{other}").status_code == 404
    shown = site.ok("member", "volume", "GET", f"/volumes/{mine}")["volume"]
    assert (shown["os-vol-tenant-attr:tenant_id"], shown["user_id"]) == (
        site.keystone.projects["demo"],
        site.keystone.people["member"].user_id,
    )
    listed = {volume["id"] for volume in site.ok("boss", "volume", "GET", "/volumes?all_tenants=1")["volumes"]}
    assert {mine, theirs} <= listed


def test_the_projects_id_may_stand_in_the_path_and_anothers_may_not(site: Site) -> None:
    site.ok("member", "volume", "GET", f"/{site.keystone.projects['demo']}/volumes")
    assert site.send("member", "volume", "GET", f"/{site.keystone.projects['other']}/volumes").status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Auth-Token": "garbage"},
        {"X-Auth-Token": "gAAAAABm" + "A" * 180},
        {"Authorization": "Basic bWVtYmVyOm1lbWJlcg=="},
        {"X-User-Id": "root", "X-Project-Id": "demo", "X-Roles": "admin", "X-Identity-Status": "Confirmed"},
    ],
)
def test_a_caller_without_a_token_is_told_where_keystone_is(site: Site, headers: dict[str, str]) -> None:
    for service, path in (("volume", "/volumes"), ("compute", "/servers")):
        answer = site.send(None, service, "GET", path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{site.keystone.url}"'


def test_invented_tokens_are_refused_and_limited_while_known_callers_are_served(site: Site) -> None:
    """Hundreds of them at once: each is answered, none with anything but a refusal, and none of the threads is lost."""
    honest = {"X-Auth-Token": site.keystone.token("member")}

    def made_up(number: int) -> int:
        answer = site.send(None, "volume", "GET", "/volumes", headers={"X-Auth-Token": f"gAAAAABm{number:0>180}"})
        assert answer.status_code != 429 or int(answer.headers["Retry-After"]) >= 1
        return answer.status_code

    with ThreadPoolExecutor(32) as pool:
        codes = list(pool.map(made_up, range(320)))
    assert set(codes) == {401, 429}, codes
    wait_for(lambda: site.send(None, "volume", "GET", "/volumes", headers=honest).status_code == 200, "the known token")


def test_a_password_of_users_yaml_is_refused(site: Site) -> None:
    people = yaml.safe_load((site.lab.stack.state_dir / "service.yaml").read_text())["people"]
    assert site.send(None, "volume", "GET", "/volumes", auth=("admin", people["admin"])).status_code == 401


def test_a_revoked_token_is_refused(site: Site) -> None:
    token = {"X-Auth-Token": site.keystone.token("member")}
    assert site.send(None, "volume", "GET", "/volumes", headers=token).status_code == 200
    site.keystone.revoke(token["X-Auth-Token"])
    assert site.send(None, "volume", "GET", "/volumes", headers=token).status_code == 401


def test_identity_headers_beside_a_token_change_nothing(site: Site) -> None:
    theirs = site.create_volume("stranger")
    claimed = {"X-Roles": "admin", "X-Project-Id": site.keystone.projects["other"], "X-Service-Roles": "service"}
    assert site.send("member", "volume", "GET", f"/volumes/{theirs}", headers=claimed).status_code == 404
    assert site.send("member", "volume", "GET", "/os-services", headers=claimed).status_code == 403


def test_a_service_token_lets_a_service_act_for_a_user_in_that_users_project_only(site: Site) -> None:
    mine, theirs = site.create_volume("member"), site.create_volume("stranger")
    body = {"os-create_snapshot_metadata": {"name": "s"}}

    def act(volume_id: str, service_token: str | None) -> requests.Response:
        headers = {"X-Service-Token": service_token} if service_token else {}
        return site.send("member", "volume", "POST", f"/volumes/{volume_id}/action", body, headers=headers)

    assert act(mine, None).status_code == 403
    assert act(mine, site.keystone.token("boss")).status_code == 403
    assert act(mine, "garbage").status_code == 401
    assert act(theirs, site.keystone.token("stillframe")).status_code == 404
    let_through = act(mine, site.keystone.token("stillframe"))
    assert let_through.status_code == 400
    assert "must be in-use" in let_through.text


def test_the_services_call_each_other_as_the_service_user(site: Site) -> None:
    """An attachment asks block storage for the volume and tells it; a deletion asks compute who names the volume."""
    guest = site.lab.add_guest(0, GuestOptions(project=None), boot=False)
    volume_id = site.create_volume("member")
    path = f"/servers/{guest.id}/os-volume_attachments"
    site.ok("member", "compute", "POST", path, {"volumeAttachment": {"volumeId": volume_id}})
    wait_for(lambda: site.status(volume_id) == "in-use", "the attachment")
    assert site.send("stranger", "compute", "GET", path).status_code == 404
    site.ok("member", "compute", "DELETE", f"{path}/{volume_id}")
    wait_for(lambda: site.status(volume_id) == "available", "the detachment")
    site.ok("member", "volume", "DELETE", f"/volumes/{volume_id}")
    wait_for(lambda: site.status(volume_id) == "gone", "the deletion")


def openstack_volumes(environment: dict[str, str]) -> set[str]:
    """What an unmodified ``openstack volume list`` shows."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    command = [str(Path(sys.executable).with_name("openstack")), "volume", "list", "-f", "json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**clean, **environment}, check=False, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return {row["ID"] for row in json.loads(done.stdout)}


def test_an_unmodified_client_finds_us_in_the_catalog_or_by_clouds_yaml(site: Site) -> None:
    volume_id, who = site.create_volume("member"), site.keystone.people["member"]
    person = {
        "OS_USERNAME": who.name,
        "OS_PASSWORD": who.password,
        "OS_PROJECT_NAME": who.project,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }
    assert volume_id in openstack_volumes({**person, "OS_AUTH_URL": site.keystone.url, "OS_REGION_NAME": REGION})
    clouds = site.lab.stack.state_dir / "clouds.yaml"
    assert "password" not in clouds.read_text()
    assert volume_id in openstack_volumes({**person, "OS_CLOUD": "stillframe", "OS_CLIENT_CONFIG_FILE": str(clouds)})


def test_while_keystone_is_away_nobody_is_accepted_and_nobody_refused(site: Site) -> None:
    token = {"X-Auth-Token": site.keystone.token("member")}
    site.keystone.server.stop()
    try:
        answer = site.send(None, "volume", "GET", "/volumes", headers=token)
        assert answer.status_code == 503
        assert "Keystone" in answer.json()["serviceUnavailable"]["message"]
        assert "Retry-After" in answer.headers
        assert site.send(None, "volume", "GET", "").status_code == 200
    finally:
        site.keystone.server.start()
    assert site.send(None, "volume", "GET", "/volumes", headers=token).status_code == 200


def test_neither_tokens_nor_passwords_are_in_the_services_log(site: Site) -> None:
    token = site.keystone.token("member")
    site.send(None, "volume", "GET", "/volumes", headers={"X-Auth-Token": token})
    text = site.lab.stack.log.read_text()
    assert text
    assert token not in text
    assert site.keystone.people["stillframe"].password not in text


def test_serve_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "stillframe.conf").write_text("[auth]\nstrategy = keystone\n")
    command = [*PROGRAM, "serve", "--state-dir", str(tmp_path / "state"), "--config-file", str(tmp_path / "stillframe.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "section [keystone] of the configuration lacks auth_url, username, password_file" in done.stderr
