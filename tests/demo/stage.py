"""What the demo plays on: a console to talk on, the services, the guest; and how all of it is stopped again."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stillframe.host import files
from tests.support import iscsi
from tests.support.guest.build import build
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.service import PROGRAM
from tests.support.stack import Api, Stack

CACHE = Path(__file__).parents[2] / ".cache"


class Stage:
    """Everything the scenario needs; ``clear`` stops what was started, by process id. Besides its own share the service has the
    backend ``fast``, whose volumes an iSCSI target daemon on loopback gives out."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.console = Console(width=None if sys.stdout.isatty() else 118, highlight=False)
        self.stack = Stack(directory / "state", ["--config-file", str(directory / "stillframe.conf")])
        self.guest: Guest | None = None
        self.proofs: list[tuple[bool, str]] = []
        self.fast: str | None = None  # the volume that is given out by iSCSI
        self._targets = ExitStack()

    def open(self) -> None:
        place = self._targets.enter_context(iscsi.reflink_place(self.directory))
        self._fast_share = place / "share"
        daemon = self._targets.enter_context(iscsi.tgtd(self.directory))
        backends = f"[DEFAULT]\nenabled_backends = local,fast\n{iscsi.section('fast', self._fast_share, daemon)}"
        (self.directory / "stillframe.conf").write_text(backends)
        self.stack.start()
        wanted = {"volume_type": {"name": "fast", "extra_specs": {"volume_backend_name": "fast"}}}
        self.stack.api("stillframe-admin").ok("volume", "POST", "/types", wanted)

    def share_of(self, volume_id: str) -> Path:
        """The directory with a volume's files."""
        return self._fast_share if volume_id == self.fast else self.stack.share

    def listing(self) -> list[str]:
        """The names of all files on both shares."""
        return sorted([*files.listing(self.stack.share), *files.listing(self._fast_share)])

    @property
    def api(self) -> Api:
        return self.stack.api()

    def make_guest(self) -> Guest:
        self.guest = Guest(self.stack.hypervisor, build(CACHE), self.directory, GuestOptions(name="demo", interval_us=50_000))
        return self.guest

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """One act: a moving bar with the time on a terminal, a plain line before and after otherwise."""
        began = time.monotonic()
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=self.console, transient=True) as bar:
                bar.add_task(title, total=None)
                yield
        else:
            self.console.print(f"... {title}")
            yield
        self.console.print(f"[bold]done[/] {title} ({time.monotonic() - began:.1f} s)")

    def prove(self, held: bool, sentence: str) -> None:
        self.proofs.append((held, sentence))
        self.console.print(f"  {'[green]holds[/]' if held else '[red]BROKEN[/]'}  {sentence}")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a stillframe command as a user would, with the generated clouds.yaml."""
        self._say(arguments)
        return subprocess.run(
            [*PROGRAM, *arguments], capture_output=True, text=True, env=self._environment, check=False, timeout=120
        )

    def show(self, *arguments: str) -> None:
        """Runs a stillframe command and shows what it answers."""
        done = self.command(*arguments)
        self.console.print(done.stdout + done.stderr, markup=False, end="")

    def watch(self, *arguments: str) -> int:
        """Runs a stillframe command that shows how far it is: its own bar on a terminal, its lines as they come otherwise.
        Returns its exit code."""
        self._say(arguments)
        errors = None if self.console.is_terminal else subprocess.PIPE
        with subprocess.Popen([*PROGRAM, *arguments], stderr=errors, text=True, env=self._environment) as process:
            for line in process.stderr or ():
                self.console.print(f"  {line.rstrip()}", markup=False)
        return process.returncode

    def _say(self, arguments: tuple[str, ...]) -> None:
        self.console.print(f"[cyan]$ stillframe {' '.join(arguments)}[/]")

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OS_CLIENT_CONFIG_FILE": str(self.stack.state_dir / "clouds.yaml")}

    def clear(self) -> None:
        with self._targets:  # ends when nobody uses them any more
            if self.guest is not None:
                self.guest.destroy()
            if self.stack.running:
                self.stack.stop()
            self.stack.destroy()
