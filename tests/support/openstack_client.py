"""The unmodified OpenStackClient in a copy of this process, which has read its modules: they take most of a command's time."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence


def openstack(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Runs ``openstack`` with ``environment`` on top of our own; returns its exit code and what it printed."""
    shell = importlib.import_module("openstackclient.shell")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as complaints:
        pid = os.fork()
        if pid == 0:
            sys.stdout, sys.stderr = out, complaints
            code = 1
            try:
                os.environ.update(environment)
                code = shell.main(list(arguments)) or 0
            except SystemExit as error:  # argparse's way to refuse
                code = int(error.code or 0)
            finally:
                out.flush()
                complaints.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, complaints):
            file.seek(0)
            texts.append(file.read())
        return subprocess.CompletedProcess(["openstack", *arguments], code, *texts)
