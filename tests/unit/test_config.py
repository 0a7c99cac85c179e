"""Configuration: the sample is usable as it is, and what is wrong is told when it is loaded."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe import config
from stillframe.errors import BadConfiguration
from stillframe.options import BACKEND_OPTS, GROUPS, NAMED_FILES, OF_SERVICE
from stillframe.printable import unsafe

SAMPLE = Path(__file__).parents[2] / "deploy" / "stillframe.conf.sample"
HINT = "write it with: oslo-config-generator --namespace stillframe --output-file deploy/stillframe.conf.sample"


def load(tmp_path: Path, text: str, **more: Any) -> config.Settings:
    path = tmp_path / "stillframe.conf"
    path.write_text(text)
    return config.load([str(path)], **more)


def test_the_sample_file_parses_and_changes_nothing() -> None:
    assert SAMPLE.is_file(), f"{SAMPLE.name} is missing; {HINT}"
    loaded, default = config.load([str(SAMPLE)]), config.load()
    assert loaded.state_dir == default.state_dir
    for group, options in GROUPS.items():
        for option in options:
            if group in ("volumes", "compute"):
                assert getattr(getattr(loaded, group), option.dest) == getattr(getattr(default, group), option.dest)


def test_the_sample_file_names_every_option() -> None:
    assert SAMPLE.is_file(), f"{SAMPLE.name} is missing; {HINT}"
    text = SAMPLE.read_text()
    for group, options in config.list_opts():
        assert f"[{group}]" in text
        for option in options:
            assert f"#{option.name} =" in text or f"\n{option.name} =" in text, f"{option.name}: {HINT}"


def test_defaults_are_usable_without_a_file() -> None:
    settings = config.load()
    assert settings.database == "sqlite:////var/lib/stillframe/stillframe.sqlite"
    assert (settings.volumes.port, settings.compute.port) == (8776, 8774)
    assert settings.host


def test_everything_lies_below_the_state_directory(tmp_path: Path) -> None:
    settings = config.load(overrides={(None, "state_dir"): str(tmp_path / "x" / "..")})
    assert settings.state_dir == tmp_path
    assert settings.database == f"sqlite:///{tmp_path}/stillframe.sqlite"
    for path in (settings.users_file, settings.clouds_file, settings.share_dir, settings.freeze_dir):
        assert path.parent == tmp_path


def test_a_share_elsewhere_is_taken_as_configured(tmp_path: Path) -> None:
    assert load(tmp_path, "[volumes]\nshare_dir = /srv/share\n").share_dir == Path("/srv/share")


def test_an_override_wins_and_none_overrides_nothing(tmp_path: Path) -> None:
    overrides: dict[tuple[str | None, str], Any] = {("volumes", "port"): 1, (None, "workers"): None}
    settings = load(tmp_path, "[DEFAULT]\nworkers = 7\n[volumes]\nport = 2\n", overrides=overrides)
    assert (settings.volumes.port, settings.workers) == (1, 7)


def test_of_two_files_the_later_one_wins(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[DEFAULT]\nworkers = 2\nhost = a\n")
    (tmp_path / "b").write_text("[DEFAULT]\nworkers = 3\n")
    settings = config.load([str(tmp_path / "a"), str(tmp_path / "b")])
    assert (settings.workers, settings.host) == (3, "a")


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"missing\.conf"):
        config.load([str(tmp_path / "missing.conf")])


@pytest.mark.parametrize("text", ["no section\n", "[volumes\nport = 1\n", "[volumes]\n  = 1\n"])
def test_a_file_that_is_no_configuration_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfiguration, match="not usable"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ("DEFAULT", "workers = many"),
        ("DEFAULT", "workers = 0"),
        ("DEFAULT", "lease_seconds = 1"),
        ("log", "json = perhaps"),
        ("volumes", "port = abc"),
        ("volumes", "port = 70000"),
        ("volumes", "max_chain_depth = 1"),
        ("volumes", "max_chain_depth = 201"),
        ("volumes", "quota_volumes = -2"),
        ("compute", "freeze_deadline_seconds = 0"),
        ("compute", "agent_timeout_seconds = soon"),
    ],
)
def test_a_value_that_is_not_valid_is_told_when_it_is_loaded(tmp_path: Path, group: str, line: str) -> None:
    with pytest.raises(BadConfiguration, match=line.split()[0]):
        load(tmp_path, f"[{group}]\n{line}\n")


@pytest.mark.parametrize("override", [("volumes", "port", "abc"), (None, "workers", 0), ("compute", "port", -1)])
def test_an_override_that_is_not_valid_is_told(override: tuple[str | None, str, Any]) -> None:
    group, name, value = override
    with pytest.raises(BadConfiguration):
        config.load(overrides={(group, name): value})


def test_every_option_explains_itself() -> None:
    for _, options in config.list_opts():
        for option in options:
            assert option.help, option.name


def test_a_state_directory_whose_database_would_lie_beside_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "what?").mkdir()
    with pytest.raises(BadConfiguration, match="outside the directory"):
        config.load([], {(None, "state_dir"): str(tmp_path / "what?")})


WRONG = {
    "volumes": "[volumes]\nport = abc\nmax_chain_depth = 1\n[image]\ntimeout_seconds = 0\n[local]\nprobe_seconds = soon\n",
    "compute": "[compute]\nport = abc\nmerge_bandwidth_mib = -1\n",
}
OTHER = {"volumes": "compute", "compute": "volumes"}


@pytest.mark.parametrize("service", OTHER)
def test_a_service_does_not_fail_for_what_stands_in_the_others_sections(tmp_path: Path, service: str) -> None:
    loaded = load(tmp_path, WRONG[OTHER[service]] + f"[{service}]\nport = 7\n", service=service)
    assert getattr(loaded, service).port == 7
    with pytest.raises(AttributeError, match="belongs to the other service"):
        _ = getattr(loaded, OTHER[service]).port
    with pytest.raises(BadConfiguration):
        load(tmp_path, WRONG[service], service=service)


def test_compute_does_not_ask_for_backends(tmp_path: Path) -> None:
    text = "[DEFAULT]\nenabled_backends = nowhere, 1-2\n"
    assert load(tmp_path, text, service="compute").backends == {}
    with pytest.raises(BadConfiguration):
        load(tmp_path, text, service="volumes")


@pytest.mark.parametrize("service", OTHER)
def test_the_shared_sections_are_read_by_both(tmp_path: Path, service: str) -> None:
    text = "[DEFAULT]\nworkers = 7\n[auth]\nstrategy = keystone\n[keystone]\nusername = u\n[log]\njson = true\n"
    loaded = load(tmp_path, text, service=service)
    assert (loaded.workers, loaded.auth.strategy, loaded.keystone.username, loaded.log_json) == (7, "keystone", "u", True)


def test_an_option_on_the_command_line_of_the_other_service_changes_nothing() -> None:
    loaded = config.load(overrides={("compute", "port"): "abc", ("volumes", "port"): 7}, service="volumes")
    assert loaded.volumes.port == 7


@pytest.mark.parametrize("service", OTHER)
def test_in_one_process_too_a_service_has_its_own_sections_only(service: str) -> None:
    both = config.load()
    own = both.of(service)
    assert getattr(own, service) is getattr(both, service)
    assert (own.state_dir, own.keystone) == (both.state_dir, both.keystone)
    for section in OF_SERVICE[OTHER[service]]:
        if section != "local":
            with pytest.raises(AttributeError, match=rf"\[{section}\]"):
                _ = getattr(own, section).port


def test_the_default_project_is_found_where_it_was(tmp_path: Path) -> None:
    assert config.load().default_project == "demo"
    for section in ("DEFAULT", "compute"):
        assert load(tmp_path, f"[{section}]\ndefault_project = p\n").default_project == "p"


NAMING = {
    "password_file": "[keystone]\n{option} = {file}\n",
    "cafile": "[DEFAULT]\n{option} = {file}\n",
    "tls_certificate": "[volumes]\n{option} = {file}\n",
    "tls_key": "[compute]\n{option} = {file}\n",
    "tls_client_cafile": "[compute]\n{option} = {file}\n",
    "backup_s3_credentials_file": "[volumes]\n{option} = {file}\n",
    "nfs_shares_config": "[DEFAULT]\nenabled_backends = one\n[one]\nvolume_driver = nfs\n{option} = {file}\n",
    "glusterfs_shares_config": "[DEFAULT]\nenabled_backends = one\n[one]\nvolume_driver = glusterfs\n{option} = {file}\n",
}


def test_every_option_that_names_a_file_is_known() -> None:
    options = {option.dest for each in (*GROUPS.values(), BACKEND_OPTS) for option in each}
    assert (
        {name for name in options if name.endswith(("file", "_config", "_certificate", "_key"))}
        == set(NAMED_FILES)
        == set(NAMING)
    )


@pytest.mark.parametrize("option", NAMING)
def test_a_file_that_the_configuration_names_and_others_may_change_is_refused(tmp_path: Path, option: str) -> None:
    """Who may write to it says which shares root mounts, which password is sent, whom we believe."""
    file = tmp_path / "named"
    file.write_text("x")
    file.chmod(0o600)
    text = NAMING[option].format(option=option, file=file)
    load(tmp_path, text)
    file.chmod(0o620)
    with pytest.raises(BadConfiguration, match=f"{option}: users other than its owner may write to {file}"):
        load(tmp_path, text)
    file.chmod(0o600)
    os.chown(file, 65534, -1)
    with pytest.raises(BadConfiguration, match=f"{option}: {file} belongs to user 65534"):
        load(tmp_path, text)


def test_a_named_file_that_is_not_there_is_told_by_who_reads_it(tmp_path: Path) -> None:
    load(tmp_path, f"[keystone]\npassword_file = {tmp_path}/missing\n")


def test_trusted_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    assert load(tmp_path, "[DEFAULT]\ntrusted_proxies = 10.0.0.1, fd00::/64\n").trusted_proxies == ("10.0.0.1", "fd00::/64")
    for wrong in ("proxy.example.org", "10.0.0.1/24", "10.0.0.0/33", "*"):
        with pytest.raises(BadConfiguration, match="neither an address nor a network"):
            load(tmp_path, f"[DEFAULT]\ntrusted_proxies = {wrong}\n")


ODD_TEXTS = ("a\nb", "a\x1b[31m", "\udcff\udcfe", "a\u202eb")


@pytest.mark.parametrize("odd", ODD_TEXTS, ids=ascii)
@pytest.mark.parametrize(
    "option", [(None, "host"), (None, "state_dir"), ("volumes", "share_dir"), ("local", "volume_backend_name")]
)
def test_what_no_row_and_no_request_can_hold_is_refused(option: tuple[str | None, str], odd: str) -> None:
    """Bytes that are no UTF-8 are surrogates in Python; the services started, and no operation ever began."""
    with pytest.raises(BadConfiguration, match=f"{option[1]}: .* which is no letter of a text") as told:
        config.load(overrides={option: f"/srv/{odd}"})
    assert unsafe(told.value.message) is None


@pytest.mark.parametrize("odd", ODD_TEXTS, ids=ascii)
def test_a_host_name_that_is_no_text_is_refused_and_another_may_be_configured(
    monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=odd))
    with pytest.raises(BadConfiguration, match="host, by default this host's name"):
        config.load()
    assert config.load(overrides={(None, "host"): "h\xe9 1:2"}).host == "h\xe9 1:2"
