"""Checks documents from a store, a share or a client against a JSON schema before anything in them is believed.

An integer must be written as one: JSON Schema, and jsonschema with it, accepts 1.0 as well.
"""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

Schema = Mapping[str, Any]
ID: Schema = {"type": "string", "pattern": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"}
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}"  # does not check that the day exists
_QUOTED = 200  # characters; jsonschema's message may quote the whole document

_WHOLE = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _checker, value: type(value) is int)
_Strict = extend(Draft202012Validator, type_checker=_WHOLE)  # type: ignore[no-untyped-call]


def text(most: int) -> Schema:
    """Text that every database can keep: at most ``most`` characters, no NUL, no half of a surrogate pair."""
    return {"type": "string", "maxLength": most, "pattern": r"^[^\x00\ud800-\udfff]*\Z"}


def optional(schema: Schema) -> Schema:
    """What the schema allows, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def number(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def record(fields: Mapping[str, Schema]) -> Schema:
    """An object with exactly these fields."""
    return {"type": "object", "properties": dict(fields), "required": sorted(fields), "additionalProperties": False}


def texts(most: int, length: int) -> Schema:
    """An object that maps at most ``most`` names to texts; names and texts have at most ``length`` characters each."""
    return {"type": "object", "maxProperties": most, "propertyNames": text(length), "additionalProperties": text(length)}


class Shape:
    """A schema that is compiled once and used many times."""

    def __init__(self, schema: Schema) -> None:
        self._validator = _Strict(dict(schema))

    def flaw(self, document: Any) -> str | None:
        """Returns the first place where a document breaks the schema, and why; None if it breaks it nowhere."""
        try:
            error: ValidationError | None = next(self._validator.iter_errors(document), None)
            if error is None:
                return None
            place = error.json_path.removeprefix("$").lstrip(".")
            return f"{place[:_QUOTED] or 'it'}: {error.message[:_QUOTED]}"
        except RecursionError:  # the message quotes what is refused, and quoting it recurses
            return "it is nested too deeply"
