"""The source of a disk that QEMU itself reaches over the network: read from a domain's XML, and made for iSCSI. Pure."""

from dataclasses import dataclass

from lxml import etree


@dataclass(frozen=True)
class NetworkSource:
    """Where such a disk lies. ``name`` is the protocol's: of iSCSI the target, a slash, the number of the unit. ``secret`` is
    the id of the libvirt secret with the password of ``user``; ``initiator`` the name by which QEMU logs in."""

    protocol: str
    name: str
    host: str = ""
    port: int = 0
    user: str | None = None
    secret: str | None = None
    initiator: str | None = None

    def __str__(self) -> str:
        """For messages."""
        return f"{self.protocol} {self.name}" + (f" at {self.host}:{self.port}" if self.host else "")


def read(source: etree._Element) -> NetworkSource | None:
    """Reads a ``source`` element; None for one that names no protocol. Of several hosts the first is what is returned."""
    protocol = source.get("protocol")
    if protocol is None:
        return None
    host, auth, initiator = source.find("host"), source.find("auth"), source.find("initiator/iqn")
    secret = auth.find("secret") if auth is not None else None
    return NetworkSource(
        protocol,
        source.get("name", ""),
        host.get("name", "") if host is not None else "",
        _number(host.get("port")) if host is not None else 0,
        auth.get("username") if auth is not None else None,
        secret.get("uuid") if secret is not None else None,
        initiator.get("name") if initiator is not None else None,
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def element(source: NetworkSource) -> etree._Element:
    """Returns the ``source`` element; the password itself is never in it."""
    found = etree.Element("source", protocol=source.protocol, name=source.name)
    etree.SubElement(found, "host", name=source.host, port=str(source.port))
    if source.user is not None and source.secret is not None:
        auth = etree.SubElement(found, "auth", username=source.user)
        etree.SubElement(auth, "secret", type=source.protocol, uuid=source.secret)
    if source.initiator is not None:
        etree.SubElement(etree.SubElement(found, "initiator"), "iqn", name=source.initiator)
    return found
