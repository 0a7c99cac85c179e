"""This installation or its configuration does not allow a program to run."""

from stillframe.errors.base import StillframeError


class AlreadyRunning(StillframeError):
    """Another process serves this state directory."""

    code, status = "already_running", 409
    hint = "Stop the named process first. Another state directory is another installation: it needs shares of its own."


class NotInstalled(StillframeError):
    """A command, or an option's value, needs packages that this installation does not have."""

    code, status = "not_installed", 501
    hint = "Install the part of Stillframe that the message names into the environment that this program runs in."


class SchemaMismatch(StillframeError):
    """The tables of the database are not those of this release."""

    code, status = "schema_mismatch", 500
    hint = (
        "Stop every service that uses the database, back it up, and run 'stillframe database upgrade' of the newest release"
        " that is to use it."
    )


class BadConfiguration(StillframeError):
    """An option, or what it names on this host, cannot be used; the service does not start, or the share is refused."""

    code, status = "bad_configuration", 500
    hint = "Correct the named option."
