"""What Tempest runs against: Keystone, Glance and our services in one directory, with all that its configuration names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.glance import Glance, glance
from tests.support.keystone import Keystone, Person, keystone
from tests.support.lab import Lab, open_lab

_OPTIONS = """[auth]
strategy = keystone
[keystone]
auth_url = {auth_url}
username = stillframe
password_file = {service_password}
[compute]
default_project = {project}
[image]
auth_type = password
auth_url = {auth_url}
username = imager
password_file = {image_password}
[volumes]
backup_url = file://{directory}/backups
"""
_IMAGE_BYTES = 1 << 20
_ALTERNATES, _PAIRS, _ADMINISTRATORS = 4, 2, 4


@dataclass(frozen=True)
class Site:
    """Everything that runs, and who may use it. ``people`` stand in the order in which Tempest takes them."""

    keystone: Keystone
    glance: Glance
    lab: Lab
    image_id: str
    people: tuple[tuple[Person, str], ...]


@contextmanager
def open_site(directory: Path) -> Iterator[Site]:
    """Starts everything in ``directory``; takes it away afterwards."""
    with keystone(directory) as identity, glance(directory, identity) as images:
        people = tuple(_people(identity))
        options = _OPTIONS.format(
            auth_url=identity.url,
            service_password=identity.password_file("stillframe"),
            image_password=identity.password_file("imager"),
            project=identity.projects["demo"],
            directory=directory,
        )
        lab = open_lab(directory, options)
        try:
            known = yaml.safe_load((lab.stack.state_dir / "service.yaml").read_text())
            identity.add_service("cinder", "block-storage", known["volume"])
            identity.add_service("nova", "compute", known["compute"])
            image_id = images.add_image("boss", bytes(_IMAGE_BYTES), visibility="public", name="tempest")
            yield Site(identity, images, lab, image_id, people)
        finally:
            lab.clear()


def _people(identity: Keystone) -> Iterator[tuple[Person, str]]:
    """Users with their role. Tempest takes the first that fits, an alternate one first of all; a reader shares the project of
    the member before it."""
    for number in range(_ALTERNATES):
        identity.add_project(f"alternate-{number}")
        yield identity.add_person(f"alternate-{number}", f"alternate-{number}", "member"), "member"
    for number in range(_PAIRS):
        identity.add_project(f"pair-{number}")
        for role in ("member", "reader"):
            yield identity.add_person(f"{role}-{number}", f"pair-{number}", role), role
    for number in range(_ADMINISTRATORS):
        identity.add_project(f"administrator-{number}")
        yield identity.add_person(f"administrator-{number}", f"administrator-{number}", "admin"), "admin"
