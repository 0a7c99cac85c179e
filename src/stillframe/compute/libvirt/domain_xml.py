"""Reads and makes domain XML. Pure; entities and network are off because the text may come from anywhere (R22)."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from lxml import etree

from stillframe.chain import names
from stillframe.compute.libvirt import network_source
from stillframe.compute.libvirt.network_source import NetworkSource
from stillframe.errors import StepFailed

NAMESPACE = "urn:stillframe:domain:1"
_NOVA = "http://openstack.org/xmlns/libvirt/nova/1."
_PATH = re.compile(r"/[^\s,'\"<>]+")
_SAID = ("name", "title", "description", "metadata")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Disk:
    """One disk of a domain. ``file`` is the absolute path of a file-backed one, else None."""

    target: str
    bus: str
    device: str
    kind: str
    format: str
    serial: str | None
    file: str | None
    backing: tuple[str, ...] = ()  # of a running domain: the files behind it as libvirt knows them, nearest first
    mirror: str | None = None  # the file an active commit copies into
    mirror_ready: bool = False
    transient: bool = False  # while it runs, what the guest writes lies in a file that libvirt throws away at its end
    copied: bool = False  # its serial is that of a volume whose file is on another disk, as a copied disk keeps it
    network: NetworkSource | None = None  # of a disk that QEMU itself reaches over the network
    below: NetworkSource | None = None  # of a file that lies over such a disk: a scratch overlay
    adopted: str | None = None  # the volume that was made of its file, which has kept its name
    read_only: bool = False
    shareable: bool = False
    ends_chain: bool = False  # it says that nothing is behind its file
    error_policy: str | None = None  # what QEMU does when it cannot write; None: stop the guest where room is missing

    @property
    def name(self) -> str | None:
        """The file's name without its directory; None for a disk that is no file."""
        return os.path.basename(self.file) if self.file else None

    @property
    def directory(self) -> str | None:
        """The directory of the file as libvirt names it; None for a disk that is no file."""
        return os.path.dirname(self.file) if self.file else None

    @property
    def place(self) -> str | None:
        """What it opens: its file's path, or what it is in the network, whichever way it is reached; None for anything else."""
        return self.file or (f"{self.network.protocol} {self.network.name}" if self.network else None)

    def beside(self, other: "Disk | None") -> str:
        """For messages: what another description names where this one names our file."""
        if other is None or other.name is None:
            return "no such disk" if other is None else other.words
        if (other.name, other.directory) == (self.name, self.directory):
            return f"{other.name} as {other.format}, not {self.format},"
        return other.name if other.name != self.name else f"{other.name} in another directory"

    @property
    def words(self) -> str:
        """For messages: its file's name, or where it lies in the network."""
        return self.name or (str(self.network) if self.network else "no file")

    @property
    def foreign_file(self) -> bool:
        """Tells whether the disk is a file whose name is not that of a volume's file, nor recorded as one: only its serial can
        name a volume then."""
        return self.name is not None and names.parse(self.name) is None and self.adopted is None

    @cached_property
    def volume_id(self) -> str | None:
        """The volume on this disk: by its file's name, what is recorded of it, else its serial; None when it is no volume."""
        parsed = names.parse(self.name) if self.name else None
        known = parsed[0] if parsed else self.adopted
        if known or self.copied:
            return known
        return self.serial if self.serial and names.parse(names.base_name(self.serial)) == (self.serial, None) else None


@dataclass(frozen=True)
class Description:
    """What we read of a domain's XML."""

    disks: tuple[Disk, ...]
    project_id: str | None
    user_id: str | None
    memory_mib: int
    vcpus: int
    has_agent_channel: bool

    def disk_of(self, volume_id: str) -> Disk | None:
        """Returns the disk whose serial is the volume's id, or None."""
        return next((disk for disk in self.disks if disk.volume_id == volume_id), None)


def _parse(xml: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(xml.encode(), parser)


Adopted = Mapping[tuple[str, str], str]  # by target and path: the volume that was made of a server's disk
_NONE: Adopted = MappingProxyType({})


def read(xml: str, adopted: Adopted = _NONE) -> Description:
    """Reads a domain's XML, live or inactive; ``adopted`` are the server's disks that are volumes under names of their own."""
    root = _parse(xml)
    project, user = _owner(root)
    channel = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    memory = root.find("memory")
    return Description(
        disks=_disks(root, adopted),
        project_id=project,
        user_id=user,
        memory_mib=int(memory.text or 0) // 1024 if memory is not None else 0,
        vcpus=int(root.findtext("vcpu") or 1),
        has_agent_channel=channel is not None,
    )


def _disks(root: etree._Element, adopted: Adopted) -> tuple[Disk, ...]:
    read = [_disk(element) for element in root.findall("devices/disk")]
    found = [replace(disk, adopted=adopted.get((disk.target, str(disk.file)))) for disk in read]
    by_file = {disk.volume_id for disk in found if disk.name and not disk.foreign_file}
    return tuple(
        replace(disk, copied=True) if _has_serial_alone(disk) and disk.volume_id in by_file else disk for disk in found
    )


def _has_serial_alone(disk: Disk) -> bool:
    return disk.foreign_file or disk.network is not None


def _disk(element: etree._Element) -> Disk:
    source, driver, target = element.find("source"), element.find("driver"), element.find("target")
    mirror = element.find("mirror")
    assert target is not None
    return Disk(
        target=target.get("dev", ""),
        bus=target.get("bus", ""),
        device=element.get("device", "disk"),
        kind=element.get("type", ""),
        format=driver.get("type", "raw") if driver is not None else "raw",
        serial=element.findtext("serial"),
        file=source.get("file") if source is not None else None,
        network=network_source.read(source) if source is not None else None,
        below=_below(element),
        backing=tuple(_backing(element)),
        mirror=_mirror(element),
        mirror_ready=mirror is not None and mirror.get("ready") == "yes",
        transient=element.find("transient") is not None,
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        ends_chain=_ends_chain(element),
        error_policy=driver.get("error_policy") if driver is not None else None,
    )


def _backing(element: etree._Element) -> Iterator[str]:
    below = element.find("backingStore")
    while below is not None:
        source = below.find("source")
        if source is not None and source.get("file"):
            yield str(source.get("file"))
        below = below.find("backingStore")


def _ends_chain(element: etree._Element) -> bool:
    below = element.find("backingStore")
    return below is not None and len(below) == 0


def _below(element: etree._Element) -> NetworkSource | None:
    source = element.find("backingStore/source")
    return network_source.read(source) if source is not None else None


def _mirror(element: etree._Element) -> str | None:
    found = element.find("mirror/source")
    return found.get("file") if found is not None else None


def texts(xml: str) -> Iterator[str]:
    """Yields every attribute and text of the description that libvirt or QEMU goes by. What only says something about the
    domain is left out: Nova puts there what its users call a server, and they may call it by the name of any file."""
    root = _parse(xml)
    for said in [each for each in root if each.tag in _SAID]:
        root.remove(said)
    for element in root.iter("*"):
        yield from map(str, element.attrib.values())
        yield element.text or ""


def names_text(xml: str, text: str) -> bool:
    """Tells whether any attribute or text of the description holds the path ``text``, however XML writes it.

    The names of a volume's overlays begin with the volume's own name, so a name that continues is another file's."""
    wanted = re.compile(re.escape(text) + r"(?![.\w-])")
    return any(wanted.search(each) for each in texts(xml))


def paths(xml: str) -> set[str]:
    """Returns every absolute path in the description: sources of disks, what lies behind them, and what stands within other
    words, such as arguments given to QEMU."""
    found: set[str] = set()
    for text in texts(xml):
        found |= {text} if text.startswith("/") else set()
        found |= {match.group() for match in _PATH.finditer(text)}
    return found


def _owner(root: etree._Element) -> tuple[str | None, str | None]:
    own = root.find(f"metadata/{{{NAMESPACE}}}owner")
    if own is not None:
        return own.get("project"), own.get("user")
    for element in root.iterfind("metadata/*"):
        if str(element.tag).startswith(f"{{{_NOVA}"):
            space = str(element.tag).rpartition("}")[0] + "}"
            project, user = element.find(f"{space}owner/{space}project"), element.find(f"{space}owner/{space}user")
            return project.get("uuid") if project is not None else None, user.get("uuid") if user is not None else None
    return None, None


def volume_disk(volume_id: str, path: str, format_: str, target: str) -> str:
    """The disk element of a volume: its serial is the volume's id; the host's cache is off so that a sync is one."""
    disk = etree.Element("disk", type="file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type=format_, cache="none", discard="unmap")
    etree.SubElement(disk, "source", file=path)
    etree.SubElement(disk, "target", dev=target, bus="virtio")
    etree.SubElement(disk, "serial").text = volume_id
    return etree.tostring(disk, encoding="unicode")


@dataclass(frozen=True)
class Unit:
    """How a disk in the network is used: whether a guest's discard reaches it, and whether it may be written."""

    discard: bool = False
    read_only: bool = False


def network_disk(volume_id: str, source: NetworkSource, target: str, unit: Unit) -> str:
    """As ``volume_disk``, for a raw volume that QEMU reaches over the network. An error of its storage suspends the guest
    instead of reaching its filesystem, which would then be read only until somebody repairs it."""
    disk = etree.Element("disk", type="network", device="disk")
    driver = etree.SubElement(disk, "driver", name="qemu", type="raw", cache="none", error_policy="stop")
    driver.set("discard", "unmap" if unit.discard else "ignore")
    disk.append(network_source.element(source))
    etree.SubElement(disk, "target", dev=target, bus="virtio")
    if unit.read_only:
        etree.SubElement(disk, "readonly")
    etree.SubElement(disk, "serial").text = volume_id
    return etree.tostring(disk, encoding="unicode")


def with_source(xml: str, target: str, source: NetworkSource) -> str:
    """Returns the disk element of ``target``, a disk in the network, with another source, for a definition that is to be
    changed."""
    disk = etree.fromstring(disk_element(xml, target))
    former = disk.find("source")
    if former is None or former.get("protocol") is None:
        raise StepFailed(f"disk {target} is not reached over the network")
    disk.replace(former, network_source.element(source))
    return etree.tostring(disk, encoding="unicode")


def without_scratch(xml: str, target: str) -> str:
    """Returns the disk element of ``target``, a scratch overlay, as it was before: what lies below the overlay is the disk's
    source again. Raises StepFailed for a disk that has nothing of the network below it."""
    disk = etree.fromstring(disk_element(xml, target))
    source, driver, below = disk.find("source"), disk.find("driver"), disk.find("backingStore")
    under = below.find("source") if below is not None else None
    if source is None or driver is None or below is None or under is None or under.get("protocol") is None:
        raise StepFailed(f"disk {target} is no overlay over a disk in the network")
    disk.set("type", "network")
    driver.set("type", "raw")
    disk.remove(below)
    disk.replace(source, under)
    return etree.tostring(disk, encoding="unicode")


def disk_element(xml: str, target: str) -> str:
    """Returns the XML of one disk as the domain has it. Raises StepFailed when there is none of that target."""
    for element in _parse(xml).findall("devices/disk"):
        found = element.find("target")
        if found is not None and found.get("dev") == target:
            return etree.tostring(element, encoding="unicode")
    raise StepFailed(f"the domain has no disk {target}")


def alias_of(xml: str, target: str) -> str:
    """Returns the name that libvirt gave to a disk of a domain that runs. Raises StepFailed when there is none."""
    alias = etree.fromstring(disk_element(xml, target)).find("alias")
    name = alias.get("name") if alias is not None else None
    if name is None:
        raise StepFailed(f"disk {target} of the domain has no alias")
    return str(name)


def with_file(xml: str, target: str, path: str, format_: str) -> str:
    """Returns the disk element of ``target`` with another file and format, for a definition that is to be changed."""
    disk = etree.fromstring(disk_element(xml, target))
    source, driver = disk.find("source"), disk.find("driver")
    if source is None or driver is None:
        raise StepFailed(f"disk {target} is no file")
    source.set("file", path)
    driver.set("type", format_)
    for gone in (*disk.findall("backingStore"), *disk.findall("mirror"), *source.findall("slices")):
        parent = gone.getparent()
        if parent is not None:
            parent.remove(gone)
    return etree.tostring(disk, encoding="unicode")


def snapshot(switches: dict[str, str], all_targets: list[str]) -> str:
    """The snapshot XML: each target in ``switches`` goes to that overlay path; every other disk stays as it is."""
    root = etree.Element("domainsnapshot")
    disks = etree.SubElement(root, "disks")
    for target in all_targets:
        if target in switches:
            disk = etree.SubElement(disks, "disk", name=target, snapshot="external", type="file")
            etree.SubElement(disk, "driver", type="qcow2")
            etree.SubElement(disk, "source", file=switches[target])
        else:
            etree.SubElement(disks, "disk", name=target, snapshot="no")
    return etree.tostring(root, encoding="unicode")


def free_target(taken: set[str]) -> str:
    """Returns the next free virtio disk name. Raises StepFailed when all 26 are taken."""
    for letter in _LETTERS:
        if f"vd{letter}" not in taken:
            return f"vd{letter}"
    raise StepFailed("all 26 virtio disk names of the server are taken")
