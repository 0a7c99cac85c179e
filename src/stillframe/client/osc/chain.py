"""``volume chain show``: the files a volume is made of, drawn as a tree."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from cliff.command import Command
from rich import filesize

from stillframe.client.chains import Chains, Document
from stillframe.printable import escaped

_UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]


class Show(Command):
    """Show the files a volume is made of, what each holds and who needs it"""

    auth_required = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<volume>`` and ``--format``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="<volume>", help="Volume (name or ID)")
        parser.add_argument("-f", "--format", choices=("tree", "json"), default="tree")
        return parser

    @property
    def chains(self) -> Chains:
        """The client library over OpenStackClient's own connection."""
        app: Any = self.app
        return Chains(app.client_manager.sdk_connection.block_storage)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        found = self.chains.show(parsed_args.volume)
        shown = json.dumps(found, indent=1) if parsed_args.format == "json" else escaped(draw(found), keep="\n")
        self.app.stdout.write(shown + "\n")


def draw(chain: Document) -> str:
    """Returns the tree as text, the lowest file first. The active chain is the trunk; branches stand beside it."""
    files = {each["name"]: each for each in chain["files"]}
    held = sum(each["allocated"] for each in chain["files"])
    named = f"{chain['name']} ({chain['volume_id']})" if chain["name"] else chain["volume_id"]
    lines = [
        f"{named}: {chain['size']} GiB, {chain['status']}; {len(files)} file{'s' * (len(files) != 1)}, {amount(held)} allocated"
    ]
    if chain["problem"]:
        lines.append(f"! {chain['problem']}")
    if chain["parent_image"]:
        base = chain["parent_image"]
        lines += [f"◌ {base['file']}", f"│   of volume {base['volume_id']}, which this one is linked to"]
    drawn: set[str] = set()
    for each in chain["files"]:
        if each["backing"] not in files:
            if each["backing"] and not chain["parent_image"]:
                lines += [f"◌ {each['backing']}", "│   of no volume, never changed"]
            lines += _branch(files, each, "", drawn)
    lines += [line for name, each in files.items() if name not in drawn for line in _lines(each, "", "", False)]
    return "\n".join(lines)


def _branch(files: dict[str, Document], start: Document, prefix: str, drawn: set[str]) -> Iterator[str]:
    """A file and what stands on it: side branches indented, the trunk straight on."""
    current: Document | None = start
    while current is not None and current["name"] not in drawn:
        drawn.add(current["name"])
        above = sorted((files[name] for name in current["needed_by"]["files"] if name in files), key=_trunk_last)
        yield from _lines(current, prefix, prefix, bool(above))
        for side in above[:-1]:
            first, *rest = _branch(files, side, "", drawn)
            yield f"{prefix}├─{first}"
            yield from (f"{prefix}│ {line}" for line in rest)
        current = above[-1] if above else None


def _trunk_last(each: Document) -> tuple[bool, str]:
    return each["in_active_chain"], each["name"]


def _lines(each: Document, first: str, rest: str, goes_on: bool) -> Iterator[str]:
    mark = "◉" if each["active"] else "!" if each["problem"] else "●" if not each["hidden"] else "○"
    size = f"  {each['format']}, {amount(each['virtual_size'])}" if each["format"] else ""
    yield f"{first}{mark} {each['name']}{size}, {amount(each['allocated'])} allocated"
    for words in _words(each):
        yield f"{rest}{'│' if goes_on else ' '}   {words}"


def _words(each: Document) -> Iterator[str]:
    if each["problem"]:
        yield each["problem"]
        return
    if each["active"]:
        yield "receives the volume's writes"
    for snapshot in each["snapshots"]:
        state = "" if snapshot["status"] == "available" else f", {snapshot['status']}"
        yield f"holds snapshot {snapshot['name'] or ''} ({snapshot['id']}{state})".replace("  ", " ")
    if each["hidden"]:
        yield f"hidden: {each['why']}"
    elif _is_copy(each):
        yield "a copy of the volume's file, which shares blocks with it"
    elif not each["in_active_chain"]:
        yield "on a branch that was left"
    yield from _needs(each["needed_by"], each["hidden"])


def _is_copy(each: Document) -> bool:
    """Tells whether a file is a snapshot of block storage's own. In a chain a raw file is the base of all others."""
    return each["format"] == "raw" and not (each["active"] or each["backing"] or each["needed_by"]["files"])


def _needs(needed: Document, hidden: bool) -> Iterator[str]:
    for volume in needed["linked_volumes"]:
        yield f"read by linked volume {volume}"
    if needed["foreign_linked_volumes"] and not hidden:
        yield f"read by {needed['foreign_linked_volumes']} linked volumes of other projects"
    for backup in needed["backups"] if not hidden else ():
        yield f"kept for backup {backup}"
    if needed["undo_of_revert"] and not hidden:
        yield "kept for the undo of a revert"


def amount(count: int | None) -> str:
    """A number of bytes for people: ``1 GiB``, ``196.6 KiB``."""
    if count is None:
        return "?"
    size, unit = filesize.pick_unit_and_suffix(count, _UNITS, 1024)
    return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
