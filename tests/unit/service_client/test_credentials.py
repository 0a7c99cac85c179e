"""Credentials between the services, and the file people use."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stillframe import config
from stillframe.errors import BadConfiguration
from stillframe.service_client import credentials
from tests.unit.builders import settings

KNOWN = {"username": "service", "password": "p", "volume": "http://v/v3", "compute": "http://c/v2.1"}


@pytest.mark.parametrize(
    ("service", "url", "version"), [("volume", "http://v/v3", "3.71"), ("compute", "http://c/v2.1", "2.100")]
)
def test_a_service_calls_the_other_where_it_said_it_is(tmp_path: Path, service: str, url: str, version: str) -> None:
    credentials.write_private(tmp_path / credentials.SERVICE_FILE, KNOWN)
    found = credentials.service_endpoint(settings(tmp_path), service)
    assert (found.url, found.username, found.password, found.microversion) == (url, "service", "p", version)


def test_block_storage_elsewhere_is_taken_as_configured(tmp_path: Path) -> None:
    credentials.write_private(tmp_path / credentials.SERVICE_FILE, KNOWN)
    overrides = {(None, "state_dir"): str(tmp_path), ("compute", "storage_endpoint"): "http://cinder/v3"}
    configured = config.load(overrides={**overrides})
    assert credentials.service_endpoint(configured, "volume").url == "http://cinder/v3"
    trusting = replace(configured, cafile="/etc/ssl/ca.pem")
    assert credentials.service_endpoint(trusting, "volume").cafile == "/etc/ssl/ca.pem"
    assert credentials.service_endpoint(trusting, "compute").cafile is None  # over its own socket
    assert credentials.service_endpoint(configured, "compute").url == "http://c/v2.1"


def test_credentials_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=credentials.SERVICE_FILE):
        credentials.service_endpoint(settings(tmp_path), "volume")


def test_a_private_file_is_its_owners_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    old = os.umask(0)
    try:
        credentials.write_private(path, {"a": 1})
        credentials.write_private(path, {"b": 2})
    finally:
        os.umask(old)
    assert yaml.safe_load(path.read_text()) == {"b": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a.yaml"]


def test_passwords_are_long_and_never_the_same() -> None:
    found = {credentials.new_password() for _ in range(50)}
    assert len(found) == 50
    assert min(map(len, found)) >= 32


def test_the_entry_of_clouds_yaml_needs_no_keystone() -> None:
    entry = credentials.cloud({"volume": "http://v/v3", "compute": "http://c/v2.1"}, "member", "p")
    assert entry["auth_type"] == "http_basic"
    assert entry["auth"] == {"endpoint": "http://v/v3", "username": "member", "password": "p"}
    assert entry["compute_endpoint_override"] == "http://c/v2.1"
    assert entry["volume_endpoint_override"] == entry["block_storage_endpoint_override"] == "http://v/v3"


def test_where_keystone_vouches_the_services_call_each_other_with_tokens(tmp_path: Path) -> None:
    credentials.write_private(tmp_path / credentials.SERVICE_FILE, KNOWN)
    keystone = {"auth_url": "http://k", "username": "stillframe", "password_file": str(tmp_path / "secret")}
    overrides = {(None, "state_dir"): str(tmp_path), ("auth", "strategy"): "keystone"}
    configured = config.load(overrides={**overrides, **{("keystone", name): value for name, value in keystone.items()}})
    endpoint = credentials.service_endpoint(configured, "compute")
    assert endpoint.identity is not None
    assert (endpoint.url, endpoint.identity.username, endpoint.identity.auth_url) == (
        "http://c/v2.1",
        "stillframe",
        "http://k/v3",
    )
    assert credentials.service_endpoint(settings(tmp_path), "compute").identity is None


def test_the_entry_of_clouds_yaml_for_keystone_holds_no_credentials() -> None:
    entry = credentials.keystone_cloud({"volume": "http://v/v3", "compute": "http://c/v2.1"}, "http://k/v3")
    assert entry["auth"] == {"auth_url": "http://k/v3"}
    assert entry["compute_endpoint_override"] == "http://c/v2.1"
    assert entry["volume_endpoint_override"] == entry["block_storage_endpoint_override"] == "http://v/v3"
