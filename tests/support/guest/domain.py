"""The test guest as a domain: its XML, its console, what its writer reports, and commands through its agent."""

import base64
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from stillframe.compute.libvirt.domain_xml import NAMESPACE
from stillframe.errors import AgentFailed, StillframeError
from stillframe.host import hypervisor
from stillframe.host.hypervisor import Hypervisor
from tests.support.guest import memory
from tests.support.guest.build import GuestImage

HELD_SECONDS = 12.0
EMULATOR = Path("/usr/bin/qemu-system-x86_64")
_BEAT = re.compile(r"beat k=(\d+) slowest_ms=([\d.]+)")


@dataclass(frozen=True)
class Beat:
    """One report of the writer: its round, and the slowest round since the last report, in ms."""

    round: int
    slowest_ms: float


# An emulated CPU boots in two thirds of the time without mitigations and performance counters.
_SOON = "nokaslr noreplace-smp mitigations=off tsc=reliable no_timer_check lpj=4000000 cryptomgr.notests ipv6.disable=1 audit=0"
_SOONER = "acpi=noirq"  # leaves disks that are found after the boot without interrupts from the seventh slot on


@dataclass(frozen=True)
class GuestOptions:
    """How a guest is made. ``interval_us`` is the writer's pause between rounds, ``raw`` names disks without a filesystem, as
    in ``vdb:vdc``."""

    name: str = "guest"
    project: str | None = "demo"
    memory_mib: int = 256
    interval_us: int = 500_000  # two rounds a second: each costs an emulated processor some 5 ms a disk, for ever
    agent: bool = True
    channel: bool = True
    raw: str = ""
    extra_disks: str = ""


def xml(image: GuestImage, console: Path, options: GuestOptions, configured: bool = True) -> str:
    """The domain's description: TCG, direct kernel boot, console to a file, an agent channel. What is not ``configured``
    waits when its kernel is up (init.sh)."""
    owner = (
        f'<metadata><sf:owner xmlns:sf="{NAMESPACE}" project="{options.project}" user="operator"/></metadata>'
        if options.project
        else ""
    )
    settings = f"interval={options.interval_us} agent={int(options.agent)} raw={options.raw}"
    configuration = f"<sysinfo type='fwcfg'><entry name='opt/stillframe'>{settings}</entry></sysinfo>"
    kernel = f"console=ttyS0 quiet panic=-1 {_SOON}" + (f" {_SOONER}" if configured else " sf.wait")
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    return f"""
<domain type='qemu'>
  <name>{options.name}</name>{owner}
  <memory unit='MiB'>{options.memory_mib}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{image.kernel}</kernel><initrd>{image.initrd}</initrd><cmdline>{kernel}</cmdline></os>
  {configuration if configured else ""}
  <features><acpi/></features>
  <devices>
    <emulator>{EMULATOR}</emulator>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0'/>
    {channel if options.channel else ""}
    {options.extra_disks}
    <serial type='file'><source path={quoteattr(str(console))}/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


def kernel_is_up(image: GuestImage) -> Path:
    """The memory of a guest of the usual kind whose kernel is up; made anew when one of its ingredients has changed."""
    made_of = [path.stat() for path in (image.kernel, image.initrd, EMULATOR)]

    def describe(console: Path) -> str:
        return xml(image, console, GuestOptions(name="kernel-is-up"), configured=False)

    stamp = f"{[(each.st_size, each.st_mtime_ns) for each in made_of]} {describe(Path('console'))}"
    return memory.of_a_kernel_that_is_up(image.kernel.parent, describe, stamp)


class Guest:
    """One test guest under a libvirt daemon."""

    def __init__(self, connection: Hypervisor, image: GuestImage, directory: Path, options: GuestOptions) -> None:
        self.options = options
        self.image = image
        self.console = directory / f"{options.name}.console"
        self.hypervisor = connection
        self.id = hypervisor.define(connection, xml(image, self.console, options))

    @property
    def domain(self) -> Any:
        return self.hypervisor.domain(self.id)

    def boot(self, seconds: float = 90) -> None:
        """Starts the guest through libvirt and waits until it is ready."""
        self.start()
        self.wait_ready(seconds)

    def start(self) -> None:
        """Starts the guest through libvirt; one of the usual kind with a kernel that is up already."""
        if self.options.channel and self.options.memory_mib == GuestOptions.memory_mib:
            memory.start(self.domain, self.console.parent, kernel_is_up(self.image))
        else:
            hypervisor.power(self.domain, "start")

    def wait_ready(self, seconds: float = 90) -> None:
        """Waits for the writer's first report, and the agent's first answer where there is an agent."""
        self._wait(lambda: bool(self.beats()), seconds, "the guest's writer")
        if self.options.agent and self.options.channel:
            self._wait(self.agent_answers, seconds, "the guest's agent")

    def _wait(self, what: Any, seconds: float, name: str) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"{name} did not come up; console:\n{self.text()[-2000:]}")
            time.sleep(0.1)

    def agent_answers(self) -> bool:
        try:
            hypervisor.agent_command(self.domain, "guest-ping", None, 2)
        except StillframeError:
            return False
        return True

    def text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def beats(self) -> list[Beat]:
        return [Beat(int(found[1]), float(found[2])) for found in _BEAT.finditer(self.text())]

    def still_writes(self, seconds: float = 60) -> None:
        """Waits until the counter has moved on from where it is now; from its next report, where the console was emptied."""
        self._wait(lambda: bool(self.beats()), seconds, "the guest's counter")
        before = self.beats()[-1].round
        self._wait(lambda: self.beats()[-1].round > before + 2, seconds, "the guest's counter")

    def agent(self, command: str, arguments: dict[str, Any] | None = None, seconds: int = 10) -> Any:
        """Sends one command; a guest that is suspended at this moment, for a pivot, is asked again when it is resumed."""
        end = time.monotonic() + HELD_SECONDS
        while True:
            try:
                return hypervisor.agent_command(self.domain, command, arguments, seconds)
            except AgentFailed as error:
                if "domain is not running" not in error.message or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def execute(self, script: str, wait: bool = True) -> str:
        """Runs a shell script inside the guest through its agent; returns what it printed."""
        arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        pid = self.agent("guest-exec", arguments)["pid"]
        while wait:
            status = self.agent("guest-exec-status", {"pid": pid})
            if status["exited"]:
                assert status.get("exitcode") == 0, (script, status)
                return base64.b64decode(status.get("out-data", "")).decode()
            time.sleep(0.05)
        return ""

    def frozen(self) -> bool:
        return bool(self.agent("guest-fsfreeze-status") == "frozen")

    def destroy(self) -> None:
        """Ends the guest and forgets it; fine when it is gone."""
        with suppress(StillframeError):
            hypervisor.power(self.domain, "destroy")
        with suppress(StillframeError):
            hypervisor.undefine(self.domain)
