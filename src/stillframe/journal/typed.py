"""Intents and steps of plans: typed values in the code, documents in the database, and one converter between them, msgspec.

A worker may meet what another release stored. It does not guess: a version, a step or a field that it does not know parks the
operation with a sentence (``NotUnderstood``).
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, TypeVar

import msgspec

Document = dict[str, Any]
T = TypeVar("T")


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of an intent or of a step's arguments; it is stored without the fields that have their default."""


class Intent(Value, frozen=True, kw_only=True):
    """What was asked, as the plan was made from it. One class for each kind of operation.

    ``version`` is stored with the operation. It grows with every change of the class, or of the arguments of a step of its
    kind, that the last release would not understand; ``reads`` are the older versions that this release understands too, for
    which every field they lack has a default.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[frozenset[int]] = frozenset()


class Args(Value, frozen=True, kw_only=True):
    """What a step is told. ``verb`` is the step's name in the journal; without one it is the name of the class."""

    verb: ClassVar[str] = ""


class NotUnderstood(Exception):
    """What is stored is not what this release knows; the text says what, for people."""


@dataclass(frozen=True)
class Step:
    """One step of a plan. ``key`` is what its evidence is kept by: its verb, or with a number where the verb comes again."""

    verb: str
    key: str
    args: Any

    def document(self) -> Document:
        """As the journal stores it: {"verb", "key", "args"}."""
        return {"verb": self.verb, "key": self.key, "args": document(self.args)}


def verb_of(args: type | object) -> str:
    """Returns the name of the verb that takes these arguments."""
    kind = args if isinstance(args, type) else type(args)
    return str(getattr(kind, "verb", "") or kind.__name__)


def step(args: object, key: str = "") -> Step:
    """Returns a step of the arguments' verb; ``key`` where that must not be the verb's name."""
    verb = verb_of(args)
    return Step(verb, key or verb, args)


def numbered(every: Sequence[object]) -> list[Step]:
    """Returns the steps of a plan in which a verb may come several times: the second has the key "<verb>-2"."""
    seen: dict[str, int] = {}
    found = []
    for args in every:
        verb = verb_of(args)
        seen[verb] = seen.get(verb, 0) + 1
        found.append(step(args, verb if seen[verb] == 1 else f"{verb}-{seen[verb]}"))
    return found


def document(value: object) -> Document:
    """Returns the value as the database stores it."""
    return dict(value) if isinstance(value, Mapping) else dict(msgspec.to_builtins(value))


def read(kind: "type[T] | UnionType", stored: Mapping[str, Any], what: str) -> T:
    """Returns the value that was stored; ``what`` names it for people. Raises NotUnderstood."""
    if dataclasses.is_dataclass(kind):
        unknown = sorted(set(stored) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise NotUnderstood(f"{what} has the field {', '.join(unknown)}")
    try:
        found: T = msgspec.convert(stored, type=kind)
    except msgspec.ValidationError as error:
        raise NotUnderstood(f"{what}: {error}") from error
    return found


def read_intent(kind: "type[T] | UnionType", stored: Mapping[str, Any], version: int = 1) -> T:
    """Returns an operation's intent. ``kind`` is its class, or a union of such that a tag tells apart. Raises NotUnderstood for
    a version, or fields, that this release does not know."""
    forms = typing.get_args(kind) or (kind,)
    known = {each for form in forms for each in (getattr(form, "version", 1), *getattr(form, "reads", ()))}
    if version not in known:
        raise NotUnderstood(f"its plan has version {version}, and this release knows {', '.join(map(str, sorted(known)))}")
    return read(kind, stored, "what was asked")
