"""Documents read back from a store or a client, checked against a JSON schema before anything of them is believed.

A whole number is one as it is written: the draft, and jsonschema with it, takes 1.0 for one too.
"""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

Schema = Mapping[str, Any]
ID: Schema = {"type": "string", "pattern": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"}
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}"  # whether there is such a day is another matter
_TOLD = 200  # characters; a message may quote all of what it refuses

_WHOLE = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _checker, value: type(value) is int)
_Strict = extend(Draft202012Validator, type_checker=_WHOLE)  # type: ignore[no-untyped-call]


def text(most: int) -> Schema:
    """What every database can keep: at most ``most`` characters, no NUL, no half of a pair."""
    return {"type": "string", "maxLength": most, "pattern": r"^[^\x00\ud800-\udfff]*\Z"}


def optional(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def number(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def record(fields: Mapping[str, Schema]) -> Schema:
    """An object of exactly these fields."""
    return {"type": "object", "properties": dict(fields), "required": sorted(fields), "additionalProperties": False}


def texts(most: int, length: int) -> Schema:
    """An object of at most ``most`` texts by name, each of at most ``length`` characters."""
    return {"type": "object", "maxProperties": most, "propertyNames": text(length), "additionalProperties": text(length)}


class Shape:
    """A schema made ready once."""

    def __init__(self, schema: Schema) -> None:
        self._validator = _Strict(dict(schema))

    def flaw(self, document: Any) -> str | None:
        """Returns the first place where a document is not as it must be, and why; None: there is none."""
        try:
            error: ValidationError | None = next(self._validator.iter_errors(document), None)
            if error is None:
                return None
            place = error.json_path.removeprefix("$").lstrip(".")
            return f"{place[:_TOLD] or 'it'}: {error.message[:_TOLD]}"
        except RecursionError:  # what is refused is quoted in the message
            return "it is nested too deeply"
