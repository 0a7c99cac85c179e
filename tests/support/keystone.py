"""A real Keystone: SQLite, fernet tokens, a project ``demo`` with a member and an admin, and a service user."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.support.openstack_venv import WsgiServer, from_template, run

REGION = "RegionOne"
# The memory cache makes a call fifty times as fast; four rounds of hashing are enough for passwords of a test.
_CONF = """[database]
connection = sqlite:///{directory}/keystone.sqlite?timeout=60
[fernet_tokens]
key_repository = {directory}/fernet
[credential]
key_repository = {directory}/credential
[token]
provider = fernet
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
"""
_ADMIN_PASSWORD = "bootstrap"  # every copy has it; Keystone listens on loopback and lives as long as a test


@dataclass(frozen=True)
class Person:
    """One user: name, password, the project acted in, the id of both."""

    name: str
    password: str
    project: str
    user_id: str
    project_id: str


@dataclass
class Keystone:
    """A running Keystone. Every user lies in the domain ``Default``."""

    server: WsgiServer
    directory: Path
    people: dict[str, Person] = field(default_factory=dict)
    projects: dict[str, str] = field(default_factory=dict)
    _admin_token: str = ""

    @property
    def url(self) -> str:
        return f"{self.server.url}/v3"

    def token(self, name: str) -> str:
        """Signs a user in; returns a token for the user's project."""
        person = self.people[name]
        return self.sign_in(person.name, person.password, person.project)

    def sign_in(self, name: str, password: str, project: str) -> str:
        """Returns a token for the project."""
        domain = {"name": "Default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": name, "domain": domain, "password": password}},
                },
                "scope": {"project": {"name": project, "domain": domain}},
            }
        }
        answer = requests.post(f"{self.url}/auth/tokens", json=body, timeout=60)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}\n{self.server.tail()}"
        return answer.headers["X-Subject-Token"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request as the administrator of everything."""
        headers = {"X-Auth-Token": self._admin_token}
        answer = requests.request(method, self.url + path, json=body, headers=headers, timeout=60)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}\n{self.server.tail()}"
        return answer.json() if answer.content else None

    def revoke(self, token: str) -> None:
        headers = {"X-Auth-Token": self._admin_token, "X-Subject-Token": token}
        answer = requests.delete(f"{self.url}/auth/tokens", headers=headers, timeout=60)
        assert answer.status_code == 204, answer.text

    def add_project(self, name: str) -> str:
        made = self.call("POST", "/projects", {"project": {"name": name, "domain_id": "default"}})
        self.projects[name] = made["project"]["id"]
        return self.projects[name]

    def add_person(self, name: str, project: str, *roles: str) -> Person:
        """Makes a user with roles in a project that exists."""
        password = secrets.token_urlsafe(16)
        made = self.call("POST", "/users", {"user": {"name": name, "password": password, "domain_id": "default"}})
        person = Person(name, password, project, made["user"]["id"], self.projects[project])
        known = {role["name"]: role["id"] for role in self.call("GET", "/roles")["roles"]}
        for role in roles:
            self.call("PUT", f"/projects/{person.project_id}/users/{person.user_id}/roles/{known[role]}")
        self.people[name] = person
        return person

    def add_service(self, name: str, kind: str, url: str) -> None:
        """Puts a service into the catalog."""
        made = self.call("POST", "/services", {"service": {"name": name, "type": kind}})["service"]
        for interface in ("public", "internal", "admin"):
            endpoint = {"service_id": made["id"], "interface": interface, "url": url, "region_id": REGION}
            self.call("POST", "/endpoints", {"endpoint": endpoint})

    def password_file(self, name: str) -> Path:
        """Writes a user's password into a file only its owner can read, as the configuration wants it."""
        path = self.directory / f"{name}.password"
        path.touch(mode=0o600)
        path.write_text(self.people[name].password + "\n")
        return path

    def take_over(self) -> None:
        """Signs in as the administrator of everything; makes what every test needs."""
        self._admin_token = self.sign_in("admin", _ADMIN_PASSWORD, "admin")
        self.add_service("keystone", "identity", self.url)
        for project in ("service", "demo", "other"):
            self.add_project(project)
        self.add_person("member", "demo", "member")
        self.add_person("boss", "demo", "admin")
        self.add_person("stranger", "other", "member")
        self.add_person("stillframe", "service", "service")


@contextmanager
def keystone(directory: Path) -> Iterator[Keystone]:
    """Runs a Keystone in a new directory below ``directory``.

    Its users: ``member`` and ``boss`` (an admin) in the project ``demo``, ``stranger`` in ``other``, and
    ``stillframe`` in ``service``, which has the role service.
    """
    home = directory / "keystone"
    from_template("keystone", _CONF, home, _make_template)
    (home / "keystone.conf").write_text(_CONF.format(directory=home))
    files = {"OS_KEYSTONE_CONFIG_DIR": str(home), "OS_KEYSTONE_CONFIG_FILES": "keystone.conf"}
    server = WsgiServer("keystone.wsgi.api", home, files)
    try:
        server.start()
        made = Keystone(server, home)
        made.take_over()
        yield made
    finally:
        server.stop()


def _make_template(home: Path) -> None:
    (home / "keystone.conf").write_text(_CONF.format(directory=home))
    manage = ["keystone-manage", "--config-file", str(home / "keystone.conf")]
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    for repository in ("fernet", "credential"):
        (home / repository).mkdir(mode=0o700)
    run([*manage, "db_sync"])
    run([*manage, "fernet_setup", *owner])
    run([*manage, "credential_setup", *owner])
    run([*manage, "bootstrap", "--bootstrap-password", _ADMIN_PASSWORD, "--bootstrap-region-id", REGION])
