"""What the doctor can find: every kind with what it means and what to do, and one finding as a value. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """``means``: why it matters. ``advice``: what a person does; what ``--fix`` does itself is said by the plan."""

    means: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "marker_missing": Kind(
        "The directory does not show that it is the share: it may be the empty place a share is mounted at.",
        "Mount the share. If it is the right one and only the marker was lost, put it back: .share-id holds"
        ' {"share_id": "ID"}.',
    ),
    "marker_foreign": Kind(
        "Another share is mounted here than the one the volumes were made on. Nothing on it was judged.",
        "Mount the right share.",
    ),
    "share_open": Kind(
        "Everybody on this host may read the volumes, or put files of their own between them.",
        "Give the directory to the group of the service and the hypervisor: chmod 2770 DIRECTORY.",
    ),
    "share_not_enabled": Kind(
        "No enabled backend has this share, so nothing can be done with its volumes.",
        "Name the share in the configuration again, below one of enabled_backends.",
    ),
    "orphan_file": Kind(
        "No row knows this file, so nothing reads it or will remove it. It takes room.",
        "--fix gives it a name nobody looks at, once it is proven that nobody needs it. Remove it when nothing is missed.",
    ),
    "unknown_volume": Kind(
        "This database never had the volume: it is another database's, or was lost with one, or was put here by hand.",
        "'stillframe manage-share' adds it to this database. If it is another installation's, leave it alone.",
    ),
    "foreign_reader": Kind(
        "Somebody made a file on top of a file of the volume. While it lies there, whatever would merge, rename, grow or remove"
        " files of the volume is refused (409), because the other file would read something else then, or not open any more."
        " If it is based on the file that receives the volume's writes, each write of the guest changes what it reads.",
        "Find out who made it and who uses it. If it is needed: end the programs that have it open, look at what it names"
        " ('qemu-img info FILE') and copy it to where it stands alone, 'qemu-img convert -f FORMAT -O qcow2 FILE COPY' (with"
        " the volume's server stopped if it reads the active file). When the copy is known to be good, or when nobody needs the"
        " content, move the file off the share. Never rebase it with -u.",
    ),
    "orphan_target": Kind(
        "The target daemon gives a volume out to somebody whom no attachment names.",
        "The worker removes it by itself within seconds, unless somebody is connected: whoever that is may write to the"
        " volume. Find out which server it is, as after a rebuild of the database, and attach the volume to it, or end it"
        " there.",
    ),
    "foreign_session": Kind(
        "Somebody is connected to the volume who has no attachment of it, and may write to it beside its server.",
        "Find out who it is by its address, and end it there. Where that is not possible, detach the volume from its server"
        " ('openstack server remove volume SERVER VOLUME') and attach it again: its target is made anew then, with a new"
        " password.",
    ),
    "missing_target": Kind(
        "The volume is attached and the target daemon does not give it out to its server: what the server writes fails.",
        "The worker makes the target again by itself within seconds. If it does not, see that the worker runs and look at its"
        " log.",
    ),
    "row_without_file": Kind(
        "The volume has a row and not one file: its content is not on this share.",
        "Look for the files elsewhere and put them back, or restore a backup. Only when nobody needs the content any"
        " more: set the volume to error and delete it.",
    ),
    "missing_file": Kind(
        "A file that a row names is not there. What it held is lost unless somebody moved it.",
        "Look for it, also among .orphan. and .trash. names, and put it back under its name. Do not start the server before.",
    ),
    "unsafe_file": Kind(
        "QEMU must not see this file: its header is damaged or hostile, or it is no plain file with one name.",
        "Keep a copy of it. Put right what is named, or restore the volume from a backup. Of two names (a hard link)"
        " find out who made the one that is not the volume's, and why, before it goes.",
    ),
    "wrong_backing": Kind(
        "The file is read on top of something that is not of its volume: its content is wrong, or it does not open.",
        "Find out what it was made on (the snapshot's row says). With nothing attached, try it on a copy first:"
        " 'qemu-img rebase -u -f qcow2 -F FORMAT -b BACKING COPY'; then the same on the file.",
    ),
    "wrong_backing_format": Kind(
        "The header calls the file below by another format than it has: read so, every byte of it is wrong.",
        "If the row is right, with nothing attached: 'qemu-img rebase -u -f qcow2 -F FORMAT -b BACKING FILE'.",
    ),
    "snapshot_not_behind": Kind(
        "What this snapshot holds according to its row is not what lies behind its overlay.",
        "Do not delete or revert to it. Compare both files with a backup; then correct the header or the row.",
    ),
    "wrong_size": Kind(
        "The guest would see a disk of another size than the volume has.",
        "If the file is larger, extend the volume to the next size. If smaller, growing it got lost: with nothing"
        " attached, and a copy kept, 'qemu-img resize -f FORMAT FILE SIZE' to the row's size. Never make it smaller: that cuts"
        " content off.",
    ),
    "wrong_mode": Kind(
        "Others may read what the guest wrote, or the hypervisor's user cannot open it.",
        "--fix gives it mode 0660.",
    ),
    "leaked_clusters": Kind(
        "The file holds clusters that nothing refers to, as an interrupted merge leaves them. They take room, no more.",
        "--fix gives them back while nobody has the file open.",
    ),
    "corruption": Kind(
        "The file's own tables contradict each other: some of its content is or will be wrong.",
        "Stop the server, copy the file away, then 'qemu-img check -r all' on it and compare; or restore a backup.",
    ),
    "unsound_file": Kind(
        "The file's own header says that what it counts as free may be in use, or that its tables are damaged. It reads as"
        " before; what is merged into it or written behind QEMU's back may overwrite content.",
        "Dirty bit: --fix repairs the reference counts, which changes no content, while nobody has the file open; a start"
        " of the stopped server through compute does the same. Never merge into it by other means before that. Corrupt bit, or"
        " damage besides: leave the file as it is, make a copy, 'qemu-img check -r all' on the copy, and compare; or restore"
        " a backup.",
    ),
    "inconsistent_bitmap": Kind(
        "A backup program's record of what changed was in use when its writer died, and is worth nothing now. The content is"
        " whole, but the file can neither be grown nor merged into.",
        "With nothing having the file open: 'qemu-img bitmap --remove FILE BITMAP' for each. Nothing of the content goes with"
        " it. Then have that program make a full backup: an increment would miss what was written.",
    ),
    "parent_image_changed": Kind(
        "An adopted disk reads through a file that is gone, or was written since the disk was adopted. The guest may read wrong"
        " content; nothing that would read the disk through it is done.",
        "Put the former file back with its time of last write ('cp -p', 'rsync -t'). If its content is right all the same, such"
        " as after a 'touch': release the disk and adopt it again, which records the file as it is.",
    ),
    "info_differs": Kind(
        "The .info file, which other tools and a rebuild read, does not say what the rows say.",
        "--fix writes it from the rows where the files agree with them.",
    ),
    "record_differs": Kind(
        "The .record file does not say what the rows say: a rebuild from it would lose or invent something.",
        "--fix writes it from the rows where the files agree with them.",
    ),
    "old_temporary": Kind(
        "Something that was interrupted left this file. Nobody takes it up again.",
        "--fix removes it once it is proven that nobody needs it.",
    ),
    "transitional_status": Kind(
        "The status says that something is under way, and no operation is.",
        "Compare the volume with its files ('stillframe chain show'), then reset the status as an administrator: it"
        " changes the row only.",
    ),
    "parked_operation": Kind(
        "An operation stopped because what it found fits neither before nor after. Its volume or server is locked.",
        "Read the message, put the named thing right, then 'stillframe operation retry ID'. Where it cannot be put right,"
        " 'stillframe operation abandon ID' ends it as it stands. The how-to on parked operations has an example.",
    ),
    "abandoned_operation": Kind(
        "A person abandoned an operation where it stood, and what it was about is still as that left it. It holds nothing.",
        "Do what 'next' says. 'stillframe operation show ID' shows the plan and how far it came; the files it names are as it"
        " left them.",
    ),
    "abandoned_repair": Kind(
        "A doctor died while it repaired. What it did is in its undo log; its volume is locked.",
        "--fix releases the lock. Every repair is one step, so nothing is half done.",
    ),
    "maybe_frozen": Kind(
        "The guest was frozen and nobody has confirmed that it was thawed: programs in it that write may stand still.",
        "See the how-to on frozen guests; 'virsh domfsthaw' does no harm.",
    ),
    "guest_frozen": Kind(
        "The guest's agent says that its filesystems are frozen, and no record of ours says why.",
        "If nobody else is taking a backup of it now: 'virsh domfsthaw SERVER'.",
    ),
    "descriptions_differ": Kind(
        "After a restart the guest would open another file than now: what it writes now would be missing.",
        "Correct the inactive description (virsh edit) before the server stops.",
    ),
    "scratch_in_use": Kind(
        "A set switched the disk to a scratch overlay for the time of a native snapshot, and ended before it was written back:"
        " what the guest has written since lies in that file alone, on this host. Until it is written back, the volume is not"
        " what the guest sees.",
        "Keep the file. While the server runs, 'virsh blockcommit SERVER DISK --active --pivot --wait' writes it back and"
        " brings the disk back to the volume. If it does not run, 'virsh start SERVER' first, which takes the guest up with the"
        " overlay. Where libvirt says that the secret of the volume has no value, give it the auth_password of the volume's"
        " attachment with 'virsh secret-set-value'. Remove the file only when the disk is back on the volume.",
    ),
    "scratch_left": Kind(
        "No server has the scratch overlay any more. If a guest wrote to it and that was not written back, as when a transient"
        " server ended and its set was abandoned, its content is nowhere else.",
        "If nothing was written to it, --fix removes it. Otherwise compare the volume with what its server should hold; keep a"
        " copy of the file elsewhere, and remove it with rm only when nothing is missed.",
    ),
    "snapshot_of_no_set": Kind(
        "Its content is good, but nobody deletes it together with a set: its set is gone or does not know it, as when block"
        " storage answered too late, or when the database was rebuilt from the shares.",
        "Look what it holds and whether somebody uses it. If nobody needs it: 'openstack volume snapshot delete SNAPSHOT'.",
    ),
    "wrong_active_file": Kind(
        "The guest writes to another file than the one recorded: the next start or snapshot would use the wrong one.",
        "Do not stop or start the server. If its file is the newer one, the row has to follow: ask for help with both names.",
    ),
    "wrong_disk_format": Kind(
        "A raw file that is read as qcow2 is what its guest wrote, and may name any file of the host; a qcow2 file that is read"
        " as raw shows its tables to the guest, which overwrites them.",
        "Do not start the server. If it runs, stop it, and copy the file away. Correct the type of the disk's driver in the"
        " definition ('virsh edit', of a saved server 'virsh managedsave-edit' too), and find out who changed it.",
    ),
    "saved_names_other_file": Kind(
        "The server is saved, and its saved memory belongs to another file than the definition names or the row records."
        " Restored, the guest would write into a file that holds a snapshot by now, or miss what was written since.",
        "Do not start the server yet. Copy its volumes' files and the saved image away. If the file that the row records is an"
        " overlay in which nothing was written ('qemu-img map' shows only its backing files), 'virsh managedsave-edit SERVER'"
        " may name it, with its format, and a start restores the memory. If something was written, the memory does not fit"
        " the disks any more: 'virsh managedsave-remove SERVER' throws it away, and the guest boots from the row's file as"
        " after a power cut; what only the memory held is lost.",
    ),
    "attached_without_disk": Kind(
        "The volume counts as attached, and the server has no such disk.",
        "Detach it: 'openstack server remove volume SERVER VOLUME'. Compute releases it, since the server has no such disk.",
    ),
    "disk_left_guest": Kind(
        "The disk was unplugged from the running guest only. Sets of the server leave it out, and a restart brings it back.",
        "To be rid of it: 'openstack server remove volume SERVER VOLUME'. To have it back in the guest: stop and start it.",
    ),
    "server_gone": Kind(
        "The server was undefined, or ended, or moved away, and its volume cannot be detached through it any more.",
        "If the server runs elsewhere, leave this alone. Otherwise --fix releases the volume, once it is proven that nobody"
        " uses it; so does 'openstack --os-volume-api-version 3.27 volume attachment delete ATTACHMENT' as an administrator.",
    ),
    "set_is_good": Kind(
        "A deletion of the set failed before anything was deleted, or was put right: the set can be used as any other.",
        "--fix sets it to available. Nothing is deleted by that.",
    ),
    "disk_without_attachment": Kind(
        "A server has this volume, and the rows do not know: the volume could be given to a second one.",
        "Give it to no other server. Unmount it in the guest, take the disk out of the server (virsh detach-disk --config"
        " --live), then attach it through compute.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit. ``what`` names the thing and the cause; ``facts`` is what a repair needs to know."""

    kind: str
    what: str
    share: str | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    file: str | None = None
    server_id: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The finding for programs, with what it means and what to do."""
        shown = {key: value for key, value in asdict(self).items() if key != "facts"}
        return {**shown, "means": KINDS[self.kind].means, "advice": KINDS[self.kind].advice}
