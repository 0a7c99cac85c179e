"""Signing in as a service user: where the password comes from, and where it never goes."""

from pathlib import Path
from typing import Any

import pytest

from stillframe import config
from stillframe.errors import BadConfiguration
from stillframe.service_client import identity


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("canary\n")
    return path


def options(secret: Path, **more: Any) -> Any:
    given = {"auth_url": "http://k/v3/", "username": "u", "password_file": str(secret), **more}
    return config.load(overrides={("keystone", name): value for name, value in given.items()}).keystone


def password(secret: Path) -> Any:
    session = identity.sign_in(identity.from_options("keystone", options(secret)))
    return vars(vars(session.auth)["auth_methods"][0])["password"]


@pytest.mark.parametrize("url", ["http://k", "http://k/", "http://k/v3", "http://k/v3/"])
def test_the_version_stands_behind_the_url_once(secret: Path, url: str) -> None:
    assert identity.from_options("keystone", options(secret, auth_url=url)).auth_url == "http://k/v3"


@pytest.mark.parametrize(("content", "found"), [("p", "p"), ("p\n", "p"), ("p\r\n", "p"), (" p q \n", " p q "), ("ä\n", "ä")])
def test_a_password_is_the_files_one_line(secret: Path, content: str, found: str) -> None:
    secret.write_bytes(content.encode())
    assert password(secret) == found


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n", b"x" * 5000])
def test_what_is_no_password_is_told_without_showing_it(secret: Path, content: bytes) -> None:
    secret.write_bytes(content)
    with pytest.raises(BadConfiguration, match=r"password_file of section \[keystone\]") as told:
        password(secret)
    assert "xxxx" not in told.value.message


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_a_password_that_is_open_to_everybody_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(BadConfiguration, match=r"0600|chmod go-w"):
        password(secret)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_owner_and_group_may_read_it(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    assert password(secret) == "canary"


def test_a_password_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="nowhere"):
        password(tmp_path / "nowhere")


def test_the_password_is_in_nothing_that_is_printed(secret: Path) -> None:
    made = identity.from_options("keystone", options(secret))
    assert "canary" not in repr(made)
    assert "canary" not in repr(identity.sign_in(made))


def test_certificates_are_checked_and_redirects_refused(secret: Path) -> None:
    plain = identity.sign_in(identity.from_options("keystone", options(secret)))
    own = identity.sign_in(identity.from_options("keystone", options(secret, cafile="/etc/own.pem")))
    assert (plain.verify, own.verify, plain.redirect) == (True, "/etc/own.pem", False)
