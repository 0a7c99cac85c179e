"""``stillframe serve`` and its parts as an operator meets them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import yaml

from stillframe.host import private_libvirt
from stillframe.printable import unsafe
from tests.support.lab import Lab
from tests.support.service import PROGRAM
from tests.support.stack import Api, wait_for


def base(lab: Lab, service: str) -> str:
    cloud = yaml.safe_load((lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
    return str(cloud[f"{service}_endpoint_override"]).rsplit("/", 1)[0]


def test_a_second_serve_on_the_same_directory_is_refused_by_pid(services: Lab) -> None:
    command = [*PROGRAM, "serve", "--state-dir", str(services.stack.state_dir)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert f"process {services.stack.pid}" in second.stderr
    assert services.stack.running


def test_a_second_stillframe_over_the_same_share_is_refused_and_changes_nothing(services: Lab, tmp_path: Path) -> None:
    volume_id, marker = services.api.create_volume(), services.stack.share / ".share-id"
    before, configuration = marker.read_text(), tmp_path / "stillframe.conf"
    owner = json.loads(before)["deployment"]
    configuration.write_text(f"[local]\nshare_dir = {services.stack.share}\n")
    options = ["--config-file", str(configuration), "--state-dir", str(tmp_path / "second")]
    ports = ["--volumes-port", "0", "--compute-port", "0"]
    second = subprocess.run([*PROGRAM, "serve", *options, *ports], capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert f"belongs to deployment {owner}" in second.stderr, second.stderr
    for taken_from in ([], ["--from-deployment", volume_id]):
        words = ["manage-share", *options, "--share", str(services.stack.share), *taken_from]
        told = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)
        assert told.returncode == 2
        assert owner in told.stderr, told.stderr
    assert marker.read_text() == before
    assert services.api.volume(volume_id)["status"] == "available"


def test_secrets_are_readable_by_their_owner_only(services: Lab) -> None:
    for name in ("clouds.yaml", "service.yaml", "users.yaml"):
        assert (services.stack.state_dir / name).stat().st_mode & 0o777 == 0o600
    assert services.stack.state_dir.stat().st_mode & 0o777 == 0o700
    password = yaml.safe_load((services.stack.state_dir / "service.yaml").read_text())["password"]
    assert password not in (services.stack.state_dir / "users.yaml").read_text()
    assert password not in services.stack.log.read_text()


def test_volume_files_are_not_readable_by_others(services: Lab) -> None:
    volume_id = services.api.create_volume()
    assert (services.stack.share / f"volume-{volume_id}").stat().st_mode & 0o777 == 0o660
    assert services.stack.share.stat().st_mode & 0o7777 == 0o2770


def test_version_discovery_needs_no_credentials(services: Lab) -> None:
    root = requests.get(base(services, "volume"), timeout=10)
    assert root.status_code == 300
    assert root.json()["versions"][0]["version"] == "3.71"
    for path in ("/v3", "/v3/"):
        assert requests.get(base(services, "volume") + path, timeout=10).json()["versions"][0]["min_version"] == "3.0"
    for path in ("/v2.1", "/v2.1/"):
        found = requests.get(base(services, "compute") + path, timeout=10).json()["version"]
        assert (found["id"], found["min_version"]) == ("v2.1", "2.1")


def test_health_and_metrics(services: Lab) -> None:
    services.api.create_volume()
    for service in ("volume", "compute"):
        health = requests.get(base(services, service) + "/healthcheck", timeout=10)
        assert (health.status_code, health.json()) == (200, {"database": "ok", "worker": "ok"})
        text = requests.get(base(services, service) + "/metrics", timeout=10).text
        assert 'stillframe_operations_total{kind="create_volume",outcome="done",service="volumes"}' in text
        assert "stillframe_frozen_milliseconds_bucket" in text
        assert "stillframe_block_job_bytes_total" in text


def test_an_idle_serve_is_small_and_still(services: Lab) -> None:
    stat = Path(f"/proc/{services.stack.pid}/stat")
    began = sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    time.sleep(5)
    used = sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) - began
    assert used < 25, f"{used} of 500 ticks of one core used while idle"
    status = Path(f"/proc/{services.stack.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 160 * 1024


def test_log_lines_as_json_carry_request_and_operation(services: Lab) -> None:
    services.stack.stop()
    services.stack._arguments = ["--log-json"]
    services.stack.start()
    mark = services.stack.log.stat().st_size
    answer = services.api.send("volume", "POST", "/volumes", {"volume": {"size": 1}})
    request_id = answer.headers["x-openstack-request-id"]
    wait_for(lambda: services.api.volume(answer.json()["volume"]["id"])["status"] == "available", "the volume")
    lines = [json.loads(line) for line in services.stack.log.read_text()[mark:].splitlines()]
    ours = [line for line in lines if line["context"].get("request_id") == request_id]
    assert any(line["context"]["operation_id"] for line in ours)
    assert any("is done" in line["message"] for line in ours)


def test_nobody_forges_a_json_log_line_or_controls_the_terminal_that_shows_it(services: Lab) -> None:
    """Without credentials, by a path; with them, by names."""
    services.stack.stop()
    services.stack._arguments = ["--log-json"]
    services.stack.start()
    mark = services.stack.log.stat().st_size
    for hostile in ("%0a{}", "%0d%0aforged", "%1b%5b2J", "%c2%9b2J", "%e2%80%ae", "%e2%80%a8", "%00", "%ff", "%22%7d"):
        for service in ("volume", "compute"):
            assert requests.get(f"{base(services, service)}/v3/canary{hostile}", timeout=10).status_code in (401, 404)
        services.api.send("volume", "GET", f"/volumes/canary{hostile}")
    for text in ("canary\n\x1b[2J", "canary\u202e", "canary\u2028"):
        services.api.send("volume", "POST", "/volumes", {"volume": {"size": 1, "name": text, "availability_zone": text}})
    written = services.stack.log.read_text()[mark:]
    assert written.isascii()
    lines = [json.loads(line) for line in written.split("\n") if line]
    told = [line["message"] for line in lines if "canary" in line["message"]]
    assert len(told) >= 18
    assert not [each for line in lines for each in texts(line) if unsafe(each)]


def texts(value: Any) -> Iterator[str]:
    """Every text of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(each)


def test_a_serve_that_cannot_start_says_why_and_ends(tmp_path: Path) -> None:
    command = [*PROGRAM, "serve", "--state-dir", str(tmp_path / "s"), "--libvirt-uri", "qemu+unix:///system?socket=/nosuch"]
    command += ["--volumes-port", "0", "--compute-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "libvirt" in done.stderr
    assert "hint:" in done.stderr


def test_a_serve_without_standard_streams_reuses_their_descriptors_for_nothing(tmp_path: Path) -> None:
    """What libvirt prints to standard error went into the pipe that had its number; without standard output it did not
    start."""
    state = tmp_path / "state"
    close = "import os, sys\nfor number in range(3): os.close(number)\nos.execv(sys.argv[1], sys.argv[1:])"
    command = [*PROGRAM, "serve", "--state-dir", str(state), "--volumes-port", "0", "--compute-port", "0"]
    process = subprocess.Popen([sys.executable, "-c", close, *command])

    def answers() -> bool:
        assert process.poll() is None
        try:
            cloud = yaml.safe_load((state / "clouds.yaml").read_text())["clouds"]["stillframe"]
            return bool(Api(cloud).ok("compute", "GET", "/servers/detail") == {"servers": []})
        except (FileNotFoundError, requests.ConnectionError):
            return False

    try:
        wait_for(answers, "the services", 60)
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        private_libvirt.stop(state / "libvirt")


def test_sigterm_stops_everything_it_started(services: Lab) -> None:
    pid = int((services.stack.state_dir / "libvirt/run/libvirtd.pid").read_text())
    services.stack.stop()
    assert not Path(f"/proc/{pid}").exists()
    wait_for(lambda: not _mentions(services.stack.state_dir), "the end of the watchdog")
    services.stack.start()
    assert services.api.ok("volume", "GET", "/volumes/detail")["volumes"]


def _mentions(state_dir: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(state_dir).encode() in line and int(process.name) != os.getpid():
            found.append(line.decode(errors="replace"))
    return found


def test_the_parts_run_apart_over_the_same_database(services: Lab, tmp_path: Path) -> None:
    """Each with a configuration in which the other service's section makes no sense."""
    state = tmp_path / "apart"
    configs = {"volumes": tmp_path / "volumes.conf", "compute": tmp_path / "compute.conf"}
    configs["volumes"].write_text(f"[volumes]\nport = {_free_port()}\n[compute]\nport = none\nmax_merges = 0\n")
    wrong = "[volumes]\nport = none\nmax_chain_depth = 0\n[image]\nauth_type = magic\n"
    configs["compute"].write_text(f"[DEFAULT]\nenabled_backends = 1-2\n[compute]\nport = {_free_port()}\n{wrong}")
    log = (tmp_path / "log").open("w")
    started = []
    over = ["--state-dir", str(state), "--config-file", str(configs["volumes"])]
    early = subprocess.run([*PROGRAM, "worker", "volumes", *over], capture_output=True, text=True, check=False, timeout=120)
    assert (early.returncode, "'stillframe database upgrade'" in early.stderr) == (1, True), early.stderr
    subprocess.run([*PROGRAM, "database", "upgrade", *over], check=True, timeout=120)
    try:
        for part, service in (("worker", "volumes"), ("worker", "compute"), ("api", "volumes"), ("api", "compute")):
            command = [*PROGRAM, part, service, "--state-dir", str(state), "--config-file", str(configs[service])]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready"), (tmp_path / "log").read_text()
        api = Api(yaml.safe_load((state / "clouds.yaml").read_text())["clouds"]["stillframe"])
        volume_id = api.create_volume()
        assert api.ok("compute", "GET", "/servers/detail") == {"servers": []}
        started[0].send_signal(signal.SIGKILL)
        started[0].wait()
        down = api.send("volume", "DELETE", f"/volumes/{volume_id}")
        assert (down.status_code, "worker" in down.text) == (503, True)
        assert api.volume(volume_id)["status"] == "available"
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()
        log.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
