"""The page on installing, command by command, into a directory of the test's instead of the host's."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.functional.test_tutorial import commands

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/install.md"
PACKAGES = {line.split()[0] for line in (ROOT / "requirements/system-packages.txt").read_text().splitlines()}
WHERE = re.compile(r"/(opt|etc)/(?=stillframe|systemd)")
# What changes the host, or asks a registry, is not run here; the packages of run.txt are those of the tests' environment.
LEFT_OUT = ("make setup", "systemctl", "apt-get", "curl")


def section(name: str) -> list[str]:
    return commands(PAGE.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's directories after the page's commands, and ``asked``: what was run."""
    root = tmp_path_factory.mktemp("install")
    checkout = root / "checkout"
    checkout.mkdir()
    for name in ("src", "requirements", "deploy", "pyproject.toml", "README.md", "LICENSE"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    for command in (*section("Make the files to carry"), *section("Install")):
        if command.startswith(LEFT_OUT):
            continue
        if "--require-hashes" in command:
            lend_packages(root / "opt/stillframe", shlex.split(command)[-1], checkout)
        else:
            run(WHERE.sub(lambda found: f"{root}/{found[1]}/", command).replace("--no-deps", "--no-deps --no-index"), checkout)
    return root


def run(command: str, place: Path) -> str:
    command = command.replace("tar -czf", "tar -chzf")  # links of the test's, where a checkout has files
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def lend_packages(environment: Path, listed: str, checkout: Path) -> None:
    """Everything in the list is in the tests' own environment already, but for Stillframe itself."""
    wanted = set(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==", (checkout / listed).read_text(), re.MULTILINE))
    assert len(wanted) > 30
    site = next((ROOT / ".venv/lib").glob("python3*/site-packages"))
    target = next((environment / "lib").glob("python3*/site-packages"))
    for found in site.iterdir():
        if "stillframe" not in found.name and not (target / found.name).exists():
            (target / found.name).symlink_to(found)


def test_the_packages_of_the_page_are_those_of_the_list() -> None:
    named = [shlex.split(each)[3:] for each in section("Install") if each.startswith("apt-get install")]
    assert named
    assert {name for names in named for name in names} <= PACKAGES


def test_the_installed_program_is_the_wheel(installed: Path) -> None:
    program = installed / "opt/stillframe/bin/stillframe"
    assert run(f"{shlex.quote(str(program))} --version", installed) == "stillframe 0.1.0\n"
    told = run(
        f"{shlex.quote(str(installed / 'opt/stillframe/bin/python'))} -c 'import stillframe; print(stillframe.__file__)'",
        installed,
    )
    assert told.startswith(f"{installed}/opt/stillframe/lib/")


def test_modes_are_those_of_the_page(installed: Path) -> None:
    assert (installed / "etc/stillframe/stillframe.conf").stat().st_mode & 0o777 == 0o640
    assert (installed / "etc/systemd/system/stillframe.service").stat().st_mode & 0o777 == 0o644


def test_the_installed_program_reads_the_installed_configuration(installed: Path) -> None:
    program, conf = installed / "opt/stillframe/bin/stillframe", installed / "etc/stillframe/stillframe.conf"
    run(f"{program} operation list --help", installed)
    run(
        f"{program.parent / 'python'} -c 'import sys; from stillframe import config; config.load([sys.argv[1]])' {conf}",
        installed,
    )


def test_every_unit_is_one_that_systemd_reads_and_starts_what_exists(installed: Path) -> None:
    units = sorted((ROOT / "deploy").glob("*.service"))
    assert len(units) == 5
    place = installed / "units"
    place.mkdir()
    for unit in units:
        (place / unit.name).write_text(WHERE.sub(lambda found: f"{installed}/{found[1]}/", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, place.iterdir())], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for unit in units:
        read = configparser.ConfigParser(strict=False, interpolation=None)
        read.read(place / unit.name)
        words = shlex.split(read["Service"]["ExecStart"])
        run(shlex.join([*words[: words.index("--config-file")], "--help"]), installed)


def test_what_is_removed_is_what_was_installed(installed: Path) -> None:
    for command in section("Remove"):
        if command.startswith("rm "):
            run(WHERE.sub(lambda found: f"{installed}/{found[1]}/", command), installed)
    assert not (installed / "opt/stillframe").exists()
    assert (installed / "etc/stillframe/stillframe.conf").exists()
    assert not list((installed / "etc/systemd/system").iterdir())
    shutil.rmtree(installed)
