"""Lists followed to their end, and a thing found by its id or by its name."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from stillframe.errors import BadRequest, NotFound, ServiceFailed

Document = dict[str, Any]
Ask = Callable[[str], Any]  # a path with its query to the document that a GET answers
WITHOUT_LINKS = 50  # entries a page of a list whose answers have no links to the next one
_ID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_BEGINNINGS = 3  # an entry that is deleted while a list is read can be the mark of the next page


@dataclass(frozen=True)
class Noun:
    """What a service has many of. ``filtered``: the list takes ``name`` and compares it as a whole."""

    word: str
    one: str
    many: str
    path: str
    listed: str
    filtered: bool = True


SERVERS = Noun("server", "server", "servers", "/servers", "/servers", filtered=False)  # Nova takes a regular expression
VOLUMES = Noun("volume", "volume", "volumes", "/volumes", "/volumes")
SNAPSHOTS = Noun("snapshot", "snapshot", "snapshots", "/snapshots", "/snapshots/detail")
BACKUPS = Noun("backup", "backup", "backups", "/backups", "/backups")
SETS = Noun("assisted snapshot", "assisted_snapshot", "assisted_snapshots", "/os-assisted-snapshots", "/os-assisted-snapshots")
POLICIES = Noun("snapshot policy", "snapshot_policy", "snapshot_policies", "/os-snapshot-policies", "/os-snapshot-policies")


def whole(ask: Ask, path: str, many: str) -> list[Document]:
    """Returns a list from its first page to its last, every entry once.

    Of a link to the next page only the query is believed: the request goes where the first one went. Where an answer has no
    links, as Cinder's attachments, and holds as many entries as ``path`` set as its limit, the next page is asked for after
    the last entry. Raises what ``ask`` raises.
    """
    for beginning in range(_BEGINNINGS):
        found: dict[Any, Document] = {}
        try:
            for entry in _pages(ask, path, many):
                found.setdefault(entry["id"], entry)
        except BadRequest:
            if not found or beginning == _BEGINNINGS - 1:
                raise
            continue  # the last entry of a page was deleted meanwhile
        break
    return list(found.values())


def _pages(ask: Ask, path: str, many: str) -> Iterator[Document]:
    place, _, query = path.partition("?")
    limit = int(parse_qs(query).get("limit", ["0"])[0])
    asked: set[str] = set()
    while query not in asked:
        asked.add(query)
        page = ask(f"{place}?{query}" if query else place)
        entries = page[many]
        yield from entries
        following = _next_link(page.get(f"{many}_links"))
        if following is not None:
            query = following
        elif limit and len(entries) >= limit:
            kept = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
            query = urlencode({**kept, "marker": entries[-1]["id"]})
        else:
            return
    raise ServiceFailed(f"the list {place} does not end: its next page is one that was read already")


def _next_link(links: list[Document] | None) -> str | None:
    found = [each["href"] for each in links or [] if each.get("rel") == "next"]
    return str(found[0]).partition("?")[2] if found else None


def find(ask: Ask, noun: Noun, name_or_id: str) -> Document:
    """Returns the thing of that id, else the only one of that name. Raises NotFound, or BadRequest when a name fits several.

    What has the shape of an id is asked for directly. A name is never made a part of a path.
    """
    if _ID.fullmatch(name_or_id):
        try:
            return dict(ask(f"{noun.path}/{name_or_id}")[noun.one])
        except (NotFound, BadRequest):
            pass  # a name may look like an id
    query = f"?name={quote(name_or_id, safe='')}" if noun.filtered else ""
    named = [each for each in whole(ask, noun.listed + query, noun.many) if each["name"] == name_or_id]
    if not named:
        raise NotFound(f"no {noun.word} has the name or id {name_or_id!r}")
    if len(named) > 1:
        ids = ", ".join(each["id"] for each in named)
        raise BadRequest(f"{len(named)} {noun.many.replace('_', ' ')} have the name {name_or_id!r}: {ids}")
    return dict(named[0])
