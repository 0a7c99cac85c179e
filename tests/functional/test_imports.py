"""What a command imports is most of the time it takes. Modules are counted: a clock says something else on each machine."""

import subprocess
import sys

import pytest

HEAVY = ["alembic", "falcon", "libvirt", "lxml", "openstack", "oslo_config", "requests", "rich", "sqlalchemy", "yaml"]
PROGRAM = """
import sys
from stillframe.main import shell
try:
    shell.main(sys.argv[1:])
finally:
    print("\\nIMPORTED", *sys.modules)
"""


def imported(*arguments: str) -> tuple[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    told, _, names = done.stdout.rpartition("\nIMPORTED ")
    return told, names.split()


def test_the_list_of_commands_imports_none_of_them() -> None:
    told, names = imported("--help")
    assert "  assisted-snapshot list  " in told and "  worker  " in told
    assert [name for name in HEAVY if name in names] == []
    assert len(names) < 400


@pytest.mark.parametrize("command", ["assisted-snapshot list", "adopt", "snapshot-policy list"])
def test_a_command_for_users_imports_no_part_of_the_services(command: str) -> None:
    told, names = imported(*command.split(), "--help")
    assert told.startswith("usage: ")
    assert sorted(set(names) & (set(HEAVY) - {"requests"})) == []
