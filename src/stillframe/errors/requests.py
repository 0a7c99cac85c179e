"""The request is refused: it is wrong, not allowed, or asks for too much. Nothing was changed."""

from stillframe.errors.base import StillframeError


class BadRequest(StillframeError):
    """The request itself is wrong; the same request never succeeds. 400."""

    code, status = "bad_request", 400
    hint = "Correct the request; nothing was changed."


class Unauthorized(StillframeError):
    """The caller is not authenticated. 401."""

    code, status = "unauthorized", 401
    hint = "Send valid credentials: those of clouds.yaml in the state directory, or a Keystone token if Keystone is configured."


class Forbidden(StillframeError):
    """The caller may not do this. 403."""

    code, status = "forbidden", 403
    hint = "Ask an administrator for the role the policy names."


class NotFound(StillframeError):
    """The thing does not exist, or the caller may not know of it. 404."""

    code, status = "not_found", 404
    hint = "Check the id, and that it belongs to your project."


class PathNotFound(NotFound):
    """The service does not have the path in the requested version. This says nothing about any server or volume. 404."""

    code = "path_not_found"
    hint = "Check the URL and the microversion; an older release does not know the paths of a newer one."


class MethodNotAllowed(StillframeError):
    code, status = "method_not_allowed", 405
    hint = "Use a method that the Allow header names; nothing was changed."


class MediaTypeNotSupported(StillframeError):
    code, status = "media_type_not_supported", 415
    hint = "Send the body as application/json; nothing was changed."


class VersionNotSupported(StillframeError):
    """The service does not support the requested microversion. 406."""

    code, status = "version_not_supported", 406
    hint = "Ask for a microversion inside the range the version document shows."


class QuotaExceeded(StillframeError):
    """The request exceeds a quota of the project. 413, as in Cinder."""

    code, status = "quota_exceeded", 413
    hint = "Ask an administrator to raise the project's quota, or delete what is no longer needed."


class TooManyRequests(StillframeError):
    """The caller asks more at once than the service answers; a repeat can succeed. 429."""

    code, status = "too_many_requests", 429
    hint = "Wait as long as Retry-After says, then repeat with the right password or token; nothing was changed."


class TooManyConnections(StillframeError):
    """One peer has more connections open than it may. Nothing was done. 429."""

    code, status = "too_many_connections", 429
    hint = "Use fewer connections at once, or wait as long as Retry-After says, then repeat; nothing was changed."


class TooLarge(StillframeError):
    """The request has more bytes than the service reads. 413."""

    code, status = "too_large", 413
    hint = "Send a smaller body."


class ImageServiceNotConfigured(StillframeError):
    """The request needs an image service, and the configuration names none."""

    code, status = "image_service_not_configured", 400
    hint = "Ask the operator to name the image service below [image] in the configuration."
