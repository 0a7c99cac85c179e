"""What may be done with a server in each of libvirt's states: one table, which every decision asks. Pure.

States and reasons are libvirt's (virDomainState, virDomainPausedReason, virDomainShutoffReason); what each means for QEMU and
the files was read and seen with libvirt 9.0 and qemu 7.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stillframe.errors import Conflict

NOSTATE, RUNNING, BLOCKED, PAUSED, SHUTDOWN, SHUTOFF, CRASHED, PMSUSPENDED = range(8)
PAUSED_IOERROR, PAUSED_CRASHED = 5, 10
# The guest is still in the middle of somebody's job: save, dump, shutdown, snapshot, start, postcopy, failed postcopy.
PAUSED_MIDWAY = frozenset({3, 4, 8, 9, 11, 12, 13})
SHUTOFF_SAVED = 5

DECISIONS: Mapping[str, str] = {
    "freeze": "its filesystems cannot be frozen",
    "set": "no snapshot is taken of it",
    "merge": "nothing is merged or changed under it",
    "attach": "no volume is attached to it",
    "detach": "no volume is detached from it",
    "offline": "no file and no name of its volumes is changed, nor its definition",
    "start": "it is not started",
    "resume": "it is not resumed",
    "stop": "it is not stopped",
    "pause": "it is not paused",
    "unpause": "it is not unpaused",
    "reboot": "it is not rebooted",
}


@dataclass(frozen=True)
class Condition:
    """One row of the table. ``seen`` is how libvirt shows it, ``means`` continues the sentence "server X is", ``way`` says what
    to do about it; ``status`` and ``power_state`` are Nova's words for it."""

    name: str
    seen: str
    means: str
    way: str
    status: str
    power_state: int
    allowed: frozenset[str]

    def allows(self, decision: str) -> bool:
        """Tells whether a server in this condition may be treated so: "freeze", "set", "merge", "offline" and the like."""
        return decision in self.allowed

    def why_not(self, server_id: str, decision: str) -> str | None:
        """Returns a sentence, or None for what is allowed."""
        if decision in self.allowed:
            return None
        return f"server {server_id} is {self.means}: {DECISIONS[decision]}. {self.way}"

    def refuse(self, server_id: str, decision: str) -> None:
        """Raises Conflict for what is not allowed."""
        reason = self.why_not(server_id, decision)
        if reason is not None:
            raise Conflict(reason, server_state=self.name)


def _row(name: str, nova: tuple[str, int], allowed: str, seen: str, words: tuple[str, str]) -> Condition:
    return Condition(name, seen, words[0], words[1], nova[0], nova[1], frozenset(allowed.split()))


CONDITIONS: Mapping[str, Condition] = {
    each.name: each
    for each in (
        _row(
            "running",
            ("ACTIVE", 1),
            "freeze set merge attach detach stop pause reboot",
            "running",
            ("running", "Stop it first, where a stopped server is needed."),
        ),
        _row(
            "blocked",
            ("ACTIVE", 1),
            "merge stop pause reboot",
            "blocked",
            ("blocked on a resource of its host", "libvirt takes no snapshot then. Repeat when it runs."),
        ),
        _row(
            "paused",
            ("PAUSED", 3),
            "set merge attach unpause",
            "paused by a user, by its watchdog, or since it was restored so",
            ("paused", "Unpause it (openstack server unpause) and repeat."),
        ),
        _row(
            "paused-by-io-error",
            ("PAUSED", 3),
            "set merge attach unpause",
            "paused (I/O error)",
            (
                "paused by an I/O error, and has writes that wait",
                "Look at the share: its mount and its free space; of an iSCSI volume at its target. Then unpause the server"
                " (openstack server unpause).",
            ),
        ),
        _row(
            "midway",
            ("PAUSED", 3),
            "",
            "paused (saving, dump, snapshot, shutting down, starting up, postcopy, postcopy failed)",
            (
                "in the middle of a save, dump, snapshot, migration, start or shutdown",
                "Wait for its end; 'virsh domjobinfo' shows it, 'virsh domstate --reason' the state.",
            ),
        ),
        _row(
            "going-down",
            ("ACTIVE", 1),
            "stop pause reboot",
            "in shutdown",
            ("going down", "Repeat when it has stopped."),
        ),
        _row(
            "stopped",
            ("SHUTOFF", 4),
            "set attach detach offline start",
            "shut off",
            ("stopped", "Start it (openstack server start)."),
        ),
        _row(
            "saved",
            ("SUSPENDED", 4),
            "start resume",
            "shut off, with a managed save image",
            (
                "saved: libvirt keeps its memory in a file (managed save), which belongs to the disks as they are now",
                "Start it (openstack server start), which restores it, and repeat; shut it down in the guest first where a"
                " stopped server is needed. Instead of that, 'virsh managedsave-remove' throws the memory away: what the guest"
                " had not written to its disks is lost, as in a power cut.",
            ),
        ),
        _row(
            "saved-elsewhere",
            ("SUSPENDED", 4),
            "",
            "shut off (saved), without a managed save image",
            (
                "saved to a file of somebody's choice, as far as libvirt can tell ('virsh save'), and that memory belongs to"
                " the disks as they are now",
                "Restore it ('virsh restore FILE') and repeat. If the file is gone, or its memory is not wanted, 'virsh start'"
                " boots the server from its disks: what the memory held is lost, as in a power cut, and restoring the file"
                " after that would damage the disks, so remove it then.",
            ),
        ),
        _row(
            "crashed",
            ("ERROR", 6),
            "set merge",
            "crashed, or paused (crashed), with its QEMU kept",
            (
                "crashed, and its QEMU is kept with the disks open",
                "Look at what is needed ('virsh dump'), then end it with 'virsh destroy' and start it.",
            ),
        ),
        _row(
            "crashed-and-gone",
            ("ERROR", 6),
            "set attach detach offline start",
            "crashed, and not active",
            ("crashed, and its QEMU is gone", "Start it (openstack server start)."),
        ),
        _row(
            "asleep",
            ("SUSPENDED", 7),
            "resume",
            "pmsuspended",
            (
                "asleep (its guest went to sleep by itself), with its disks open and an agent that cannot answer",
                "Wake it up ('openstack server resume', or 'virsh dompmwakeup') and repeat.",
            ),
        ),
        _row(
            "unknown",
            ("UNKNOWN", 0),
            "",
            "no state, or one that is not known here",
            ("in a state that is not known", "Look with 'virsh domstate --reason'."),
        ),
    )
}


def classify(state: int, reason: int, active: bool, saved: bool, saved_elsewhere: bool) -> Condition:
    """Returns the row of a domain. ``saved``: it has a managed save image; ``saved_elsewhere``: libvirt's reason says that it
    was saved, and no such image of its own is known to have been removed."""
    return CONDITIONS[_name(state, reason, active, (saved, saved_elsewhere))]


def _name(state: int, reason: int, active: bool, saved: tuple[bool, bool]) -> str:
    if not active:
        if saved[0] or saved[1]:
            return "saved" if saved[0] else "saved-elsewhere"
        return {SHUTOFF: "stopped", CRASHED: "crashed-and-gone"}.get(state, "unknown")
    if state == PAUSED:
        if reason in PAUSED_MIDWAY:
            return "midway"
        return {PAUSED_IOERROR: "paused-by-io-error", PAUSED_CRASHED: "crashed"}.get(reason, "paused")
    names = {RUNNING: "running", BLOCKED: "blocked", SHUTDOWN: "going-down", CRASHED: "crashed", PMSUSPENDED: "asleep"}
    return names.get(state, "unknown")
