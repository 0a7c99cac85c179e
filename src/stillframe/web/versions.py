"""Microversions: read from the headers, range-checked here because the parser takes any word as a version."""

import re

import microversion_parse

from stillframe.errors import BadRequest, VersionNotSupported
from stillframe.web.route import Service, Version

_FORM = re.compile(r"(\d{1,3})\.(\d{1,4})", re.ASCII)


def requested(service: Service, headers: dict[str, str]) -> Version:
    """Returns the microversion a request asks for. Raises BadRequest (syntax) or VersionNotSupported (range)."""
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


def show(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
