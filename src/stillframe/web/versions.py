"""Microversions: read from the headers. The range is checked here, because the parser accepts any word as a version."""

import re
from collections.abc import Mapping

import microversion_parse

from stillframe.errors import BadRequest, VersionNotSupported
from stillframe.web.route import Service, Version

ADDITIONS = "Stillframe-Additions"  # the header with which a client asks for Stillframe's own keys in an answer
_FORM = re.compile(r"(\d{1,3})\.(\d{1,4})", re.ASCII)


def requested(service: Service, headers: dict[str, str]) -> Version:
    """Returns the microversion that a request asks for. Raises BadRequest (syntax) or VersionNotSupported (range)."""
    legacy = [service.legacy_version_header] if service.legacy_version_header else None
    text = microversion_parse.get_version(headers, service_type=service.name, legacy_headers=legacy)
    if text is None:
        return service.minimum
    if text == "latest":
        return service.maximum
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadRequest(f"API version string {text!r} is of invalid format: it must be of format MAJOR.MINOR")
    version = (int(match[1]), int(match[2]))
    if not service.minimum <= version <= service.maximum:
        raise VersionNotSupported(
            f"version {text} is not supported: minimum is {show(service.minimum)}, maximum is {show(service.maximum)}"
        )
    return version


def wants_additions(headers: Mapping[str, str]) -> bool:
    """Tells whether the answer may have keys that Cinder and Nova do not have. Strict clients refuse those, so they come only
    on request. Raises BadRequest for a value that this release does not know."""
    wanted = headers.get(ADDITIONS.lower())
    if wanted not in (None, "0", "1"):
        raise BadRequest(
            f"the header {ADDITIONS} is {wanted[:80]!r}: this release knows 1, with Stillframe's own keys, and 0, without"
        )
    return wanted == "1"


def show(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
