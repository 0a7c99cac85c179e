"""A real Glance over the real Keystone: SQLite, images as files in a directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.keystone import Keystone
from tests.support.openstack_venv import VENV, WsgiServer, from_template, run

MOST_BYTES = 1 << 30
_CONF = """[DEFAULT]
enabled_backends = fs:file
worker_self_reference_url = {url}
[database]
connection = sqlite:///{directory}/glance.sqlite
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {directory}/images
[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks
[oslo_policy]
policy_file = {directory}/policy.yaml
[oslo_concurrency]
lock_path = {directory}/locks
[paste_deploy]
flavor = {flavor}
config_file = {paste}
[keystone_authtoken]
auth_type = password
auth_url = {auth_url}
www_authenticate_uri = {auth_url}
username = {username}
password = {password}
project_name = service
user_domain_name = Default
project_domain_name = Default
"""


@dataclass
class Glance:
    """A running Glance, registered in Keystone's catalog as ``image``."""

    server: WsgiServer
    keystone: Keystone

    @property
    def url(self) -> str:
        return self.server.url

    def send(self, who: str, method: str, path: str, **more: Any) -> requests.Response:
        """Sends one request below /v2 as a user of Keystone."""
        headers = {"X-Auth-Token": self.keystone.token(who), **more.pop("headers", {})}
        return requests.request(method, f"{self.url}/v2{path}", headers=headers, timeout=120, **more)

    def add_image(self, who: str, content: bytes, **facts: Any) -> str:
        """Makes an image with its content; ``facts`` go to Glance as they are. Returns its id."""
        wanted = {"name": "image", "disk_format": "raw", "container_format": "bare", **facts}
        made = self.send(who, "POST", "/images", json=wanted)
        assert made.status_code == 201, f"{made.status_code} {made.text}"
        image_id = str(made.json()["id"])
        put = self.put(who, image_id, content)
        assert put.status_code == 204, f"{put.status_code} {put.text}\n{self.server.tail()}"
        return image_id

    def put(self, who: str, image_id: str, content: bytes) -> requests.Response:
        headers = {"Content-Type": "application/octet-stream"}
        return self.send(who, "PUT", f"/images/{image_id}/file", data=content, headers=headers)

    def stored(self, image_id: str) -> Path:
        """Returns the file in which Glance keeps an image's content."""
        return self.server.log.parent / "images" / image_id


@contextmanager
def glance(directory: Path, keystone: Keystone) -> Iterator[Glance]:
    """Runs a Glance in a new directory below ``directory``.

    Adds two users to Keystone: ``glance``, which validates tokens, and ``imager`` in ``service`` with the role admin, which
    block storage signs in as.
    """
    home = directory / "glance"
    from_template("glance", _CONF, home, _make_template)
    for name in ("images", "staging", "tasks", "locks"):
        (home / name).mkdir(exist_ok=True)
    keystone.add_person("glance", "service", "service")
    keystone.add_person("imager", "service", "admin")
    server = WsgiServer("glance.wsgi.api", home, {"OS_GLANCE_CONFIG_DIR": str(home)}, MOST_BYTES)
    _configure(home, server.url, keystone.url, keystone.people["glance"].password)
    keystone.add_service("glance", "image", server.url)
    try:
        server.start()
        yield Glance(server, keystone)
    finally:
        server.stop()


@contextmanager
def glance_without_keystone(directory: Path) -> Iterator[str]:
    """Runs a Glance that lets everybody do everything in a new directory below ``directory``; yields its URL.

    Its default policy asks for roles, which nobody has without Keystone (glance 33.0), so it needs one of its own.
    """
    home = directory / "open-glance"
    from_template("glance", _CONF, home, _make_template)
    for name in ("images", "staging", "tasks", "locks"):
        (home / name).mkdir(exist_ok=True)
    server = WsgiServer("glance.wsgi.api", home, {"OS_GLANCE_CONFIG_DIR": str(home)}, MOST_BYTES)
    _configure(home, server.url, "http://127.0.0.1", "none", flavor="")
    (home / "policy.yaml").write_text('context_is_admin: "@"\n')
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


def _configure(home: Path, url: str, auth_url: str, password: str, flavor: str = "keystone") -> None:
    paste = VENV / "etc" / "glance" / "glance-api-paste.ini"
    who = {"auth_url": auth_url, "username": "glance", "password": password}
    (home / "glance-api.conf").write_text(_CONF.format(directory=home, url=url, paste=paste, flavor=flavor, **who))


def _make_template(home: Path) -> None:
    _configure(home, "http://127.0.0.1", "http://127.0.0.1", "none")
    run(["glance-manage", "--config-file", str(home / "glance-api.conf"), "db_sync"])
