"""Request bodies: small, strict JSON, checked against the route's schema before anything is touched."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from stillframe.errors import BadRequest, TooLarge
from stillframe.printable import escaped, unsafe
from stillframe.web.route import Schema

LIMIT = 64 << 10
PROSE = ("description", "display_description", "degraded_reason")
NAME: Schema = {"type": ["string", "null"], "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"}
DESCRIPTION: Schema = {"type": ["string", "null"], "maxLength": 4096, "pattern": r"^[^\x00-\x08\x0b-\x1f\x7f]*\Z"}
METADATA: Schema = {
    "type": ["object", "null"],
    "maxProperties": 128,
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. /]+\Z"},
    "additionalProperties": {"type": "string", "maxLength": 255},
}


def wrapped(key: str, properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> Schema:
    """Returns the schema of ``{key: {...}}`` that allows no other key in either object."""
    inner = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {key: {**inner, **more}},
        "required": [key],
        "additionalProperties": False,
    }


def open_to(schema: Schema, key: str) -> Schema:
    """Returns the schema with further keys allowed in the object under ``key``."""
    properties = schema["properties"]
    return {**schema, "properties": {**properties, key: {**properties[key], "additionalProperties": True}}}


def parse(raw: bytes) -> Any:
    """Reads a JSON body. Raises BadRequest when it is not JSON, TooLarge above 64 KiB."""
    if len(raw) > LIMIT:
        raise TooLarge(f"the body is longer than {LIMIT} bytes")
    try:
        document = json.loads(raw, object_pairs_hook=_no_duplicates, parse_constant=_no_constants, parse_float=_finite)
        _refuse_unsafe(document)
        return document
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from error


def _refuse_unsafe(document: Any, path: str = "", keep: str = "") -> None:
    """What a client sends may be logged and shown, so it must not contain control characters. Prose may have line breaks."""
    if isinstance(document, str):
        found = unsafe(document, keep)
        if found is not None:
            raise BadRequest(
                f"Invalid input for {_place(path)}: it holds {found}, a control character or one that cannot be shown;"
                " leave it out"
            )
    elif isinstance(document, dict):
        for name, value in document.items():
            _refuse_unsafe(name, f"{path}.{escaped(name)}")
            _refuse_unsafe(value, f"{path}.{name}", "\n\t" if name in PROSE and isinstance(value, str) else "")
    elif isinstance(document, list):
        for number, value in enumerate(document):
            _refuse_unsafe(value, f"{path}[{number}]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return float(text)


def _no_constants(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _unique(_validator: Any, wanted: bool, found: Any, _schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own check (4.26) compares each item with each other one when they cannot be sorted: 20 s of CPU time for 64
    KiB of lists and objects, even where ``maxItems`` allows few."""
    if wanted and isinstance(found, list) and len({json.dumps(each, sort_keys=True) for each in found}) < len(found):
        yield ValidationError(f"{found!r} has non-unique elements")


_Validator = extend(Draft202012Validator, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]


@lru_cache(maxsize=256)
def _validator(schema_text: str) -> Any:
    return _Validator(json.loads(schema_text))


def check(document: Any, schema: Schema) -> None:
    """Raises BadRequest, which names every place that does not fit the schema."""
    try:
        problems = sorted(_validator(json.dumps(schema)).iter_errors(document), key=lambda error: error.json_path)
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    if problems:
        misfits = "; ".join(f"{_place(_last(error))}: {error.message[:200]}" for error in problems[:5])
        raise BadRequest(f"Invalid input for {misfits}")


def _last(error: ValidationError) -> str:
    """The path of the misfit without the name of the whole body: scripts match ``field/attribute size``, as in Cinder."""
    whole, _, path = error.json_path.removeprefix("$").lstrip(".").partition(".")
    return path or whole


def _place(path: str) -> str:
    return "field/attribute " + (path.lstrip(".") or "body")
