"""Makes libvirt's secret objects, which a domain's description names instead of a password.

Those made here are only in the daemon's memory (ephemeral), and libvirt gives their value to nobody but its own drivers
(private). A daemon that starts again has none of them. QEMU gets the value encrypted (libvirt 9.0, qemu 7.2), and keeps it for
as long as it has the disk. Facts were seen with libvirt 9.0.
"""

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import libvirt

from stillframe.host.hypervisor import Hypervisor, translated

_WHAT = "the secret of a volume"


@dataclass(frozen=True)
class Secret:
    """``id`` is the UUID by which a description names it. ``usage`` says what it is for; no two secrets have the same."""

    id: str
    usage: str
    value: str = field(repr=False)


def define(hypervisor: Hypervisor, secret: Secret) -> None:
    """Creates the secret, or sets the value of the one with that id. May be repeated. Raises HypervisorRefused,
    HypervisorUnavailable; neither contains any part of the value."""
    xml = (
        f"<secret ephemeral='yes' private='yes'><uuid>{escape(secret.id)}</uuid>"
        f"<usage type='iscsi'><target>{escape(secret.usage)}</target></usage></secret>"
    )
    with translated(_WHAT):
        hypervisor.connection().secretDefineXML(xml).setValue(secret.value.encode())


def remove(hypervisor: Hypervisor, id_: str) -> None:
    """Removes the secret with that id and its value; no error when there is none. Raises HypervisorUnavailable."""
    with translated(_WHAT):
        try:
            hypervisor.connection().secretLookupByUUIDString(id_).undefine()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
                raise


def usages(hypervisor: Hypervisor) -> dict[str, str]:
    """Returns by id what each secret for an iSCSI target is for. Raises HypervisorUnavailable."""
    with translated("the list of secrets"):
        found = hypervisor.connection().listAllSecrets()
        return {each.UUIDString(): each.usageID() for each in found if each.usageType() == libvirt.VIR_SECRET_USAGE_TYPE_ISCSI}
