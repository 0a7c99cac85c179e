"""HTTP towards the image service: signing in, bounded answers, no redirects, and errors in our words."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
from keystoneauth1 import exceptions
from keystoneauth1 import session as ks_session

from stillframe.errors import (
    BadConfiguration,
    Conflict,
    Forbidden,
    ImageNotUsable,
    ImageServiceNotConfigured,
    ImageServiceUnavailable,
    NotFound,
    QuotaExceeded,
    StillframeError,
)
from stillframe.service_client.identity import bare_session, catalog_url, from_options, sign_in

CHUNK = 1 << 20
DOCUMENT_LIMIT = 1 << 20
UPLOAD_SECONDS = 900.0  # the image service may store the whole image between our last byte and its answer
_WORDS = 400
_BY_STATUS: dict[int, type[StillframeError]] = {
    401: ImageServiceUnavailable,
    403: Forbidden,
    404: NotFound,
    408: ImageServiceUnavailable,
    409: Conflict,
    410: NotFound,
    413: QuotaExceeded,
    429: ImageServiceUnavailable,
}
_HEAD_END = re.compile(r"</head>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class ImageSession:
    """Sends requests to the image service that the configuration's section [image] names."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self._opened: ks_session.Session | None = None

    def check_configured(self) -> None:
        """Raises ImageServiceNotConfigured; sends nothing."""
        self._session()

    def document(self, method: str, path: str, **more: Any) -> Any:
        """Returns the answer's JSON document, or None."""
        with self.send(method, path, **more) as answer:
            raw = b"".join(self.chunks(answer, path, DOCUMENT_LIMIT))
        try:
            return json.loads(raw) if raw else None
        except (ValueError, RecursionError) as error:
            raise ImageServiceUnavailable(f"the image service answers {path} with something that is not JSON") from error

    def patch(self, path: str, changes: list[dict[str, Any]]) -> None:
        headers = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        self.document("PATCH", path, data=json.dumps(changes), headers=headers)

    def upload(self, path: str, body: Any) -> None:
        """Sends a body once: sent again after a 401, it would continue where it ended."""
        seconds = (self._options.timeout_seconds, UPLOAD_SECONDS)
        headers = {"Content-Type": "application/octet-stream"}
        self.send("PUT", path, data=body, headers=headers, allow_reauth=False, timeout=seconds).close()

    def send(self, method: str, path: str, **more: Any) -> requests.Response:
        """Returns an answer whose status says that it went well, its body not read yet; the caller closes it."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **more.pop("headers", {})}
        session = self._session()
        try:
            url = self._base(session) + path
            answer = session.request(url, method, headers=headers, stream=True, raise_exc=False, log=False, **more)
        except exceptions.ClientException as error:
            raise ImageServiceUnavailable(_who_failed(error)) from error
        if answer.status_code < 300:
            return answer
        with answer:
            raise self._error_of(answer)

    def chunks(self, answer: requests.Response, what: str, limit: int | None = None) -> Iterator[bytes]:
        """Yields an answer's body. Raises ImageServiceUnavailable when it breaks off, is compressed, or exceeds ``limit``."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ImageServiceUnavailable(f"the image service sends {what} compressed, which was not asked for")
        size = 0
        try:
            for chunk in answer.iter_content(CHUNK):
                size += len(chunk)
                if limit is not None and size > limit:
                    raise ImageServiceUnavailable(f"the image service answers {what} with more than {limit} bytes")
                yield chunk
        except requests.RequestException as error:
            raise ImageServiceUnavailable(f"the image service broke off while sending {what}") from error

    def _session(self) -> ks_session.Session:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> ks_session.Session:
        options = self._options
        if options.auth_type == "password":
            try:
                return sign_in(from_options("image", options))
            except BadConfiguration as error:
                raise ImageServiceNotConfigured(f"the image service cannot be used: {error.message}") from error
        if not options.endpoint:
            raise ImageServiceNotConfigured(
                "no image service is configured: section [image] needs endpoint, or auth_type = password with auth_url, "
                "username and password_file"
            )
        return bare_session(options.cafile, options.timeout_seconds)

    def _base(self, session: ks_session.Session) -> str:
        """The image service's URL without the version."""
        found: str | None = self._options.endpoint or catalog_url(session, "image", self._options.region)
        if not found:
            raise ImageServiceUnavailable("Keystone's catalog names no image service (type image) in this region")
        return found.rstrip("/").removesuffix("/v2")

    def _error_of(self, answer: requests.Response) -> StillframeError:
        status = answer.status_code
        if status < 400:
            return ImageServiceUnavailable(f"the image service answers with a redirect ({status}), which is not followed")
        message = f"the image service answered {status}: {self._words(answer)}"
        if status >= 500:
            return ImageServiceUnavailable(message)
        return _BY_STATUS.get(status, ImageNotUsable)(message)

    def _words(self, answer: requests.Response) -> str:
        """What the image service says of an error: Glance answers with JSON or with a page, whatever was asked for."""
        try:
            text = b"".join(self.chunks(answer, "an error", DOCUMENT_LIMIT)).decode(errors="replace")
        except ImageServiceUnavailable:
            return "no reason"
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            text = str(json.loads(text)["message"])
        # One expression for a whole head would look for the end of each of 170,000 that have none: minutes of the process.
        text = _HEAD_END.split(text, maxsplit=1)[-1]
        return _SPACE.sub(" ", _TAG.sub(" ", text)).strip()[:_WORDS] or "no reason"


def _who_failed(error: exceptions.ClientException) -> str:
    if isinstance(error, exceptions.HttpError):
        return f"Keystone answered {error.http_status} when Stillframe signed in for the image service"
    if isinstance(error, exceptions.EndpointNotFound | exceptions.catalog.CatalogException):
        return "Keystone's catalog names no image service (type image)"
    return f"the image service or Keystone does not answer: {error}"
