"""/os-services and /os-hosts: the workers as Cinder's clients know them, and what an administrator sets of them.

One worker does what Cinder has three programs for, so it is shown as three: ``cinder-scheduler`` and ``cinder-backup`` of its
host, and ``cinder-volume`` of each backend, as ``host@backend``.
"""

from datetime import UTC, datetime
from typing import Any, TypedDict

from stillframe.db import services, snapshots, volumes
from stillframe.db.rows import ServiceStateRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.rpcapi import worker
from stillframe.web.observe import SILENT_AFTER_SECONDS
from stillframe.web.route import Call, Route

VOLUME, SCHEDULER, BACKUP = "cinder-volume", "cinder-scheduler", "cinder-backup"
_NAME = {"type": ["string", "null"], "maxLength": 255}
_SERVICE = {"binary": _NAME, "service": _NAME, "host": {**_NAME, "type": "string", "minLength": 1}, "cluster": _NAME}


def _schema(**more: Any) -> Any:
    required = ["host", *(name for name in more if name == "disabled_reason")]
    return {"type": "object", "properties": {**_SERVICE, **more}, "required": required, "additionalProperties": False}


_SWITCH = _schema()
_REASON = _schema(disabled_reason={"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"\S"})
_FREEZE = {
    "type": "object",
    "properties": {"host": _SERVICE["host"], "cluster": _NAME},
    "required": ["host"],
    "additionalProperties": False,
}


class Shown(TypedDict):
    """A service as it is shown; ``state`` is what an administrator set of it."""

    binary: str
    host: str
    up: bool
    seen_at: datetime
    state: ServiceStateRow


def _all(call: Call) -> list[Shown]:
    with call.api.database.read() as connection:
        rows = [row for row in services.list_all(connection) if row["binary"] == "stillframe-volumes"]
        states = services.states(connection)
    shown: list[Shown] = []
    for row in rows:
        up = row["silent_seconds"] < SILENT_AFTER_SECONDS
        seen = datetime.fromtimestamp(row["seen_at"], UTC).replace(tzinfo=None)
        places = [(SCHEDULER, row["host"]), (BACKUP, row["host"])]
        places += [(VOLUME, f"{row['host']}@{name}") for name in call.api.settings.backends]
        for binary, host in places:
            new: ServiceStateRow = {"binary": binary, "host": host, "disabled": False, "disabled_reason": None, "frozen": False}
            state = states.get((binary, host), new)
            shown.append({"binary": binary, "host": host, "up": up, "seen_at": seen, "state": state})
    return shown


def _is_on(host: str, wanted: str | None) -> bool:
    return wanted is None or host == wanted or host.partition("@")[0] == wanted


def list_services(call: Call) -> dict[str, Any]:
    """``GET /os-services``: the workers that were ever seen; ``down`` means silent for longer than a beat may take. ``host``
    and ``binary`` filter."""
    found = [each for each in _all(call) if _is_on(each["host"], call.query.get("host"))]
    return {"services": [_view(call, each) for each in found if each["binary"] == call.query.get("binary", each["binary"])]}


def _view(call: Call, found: Shown) -> dict[str, Any]:
    up, state = "up" if found["up"] else "down", found["state"]
    view: dict[str, Any] = {
        "binary": found["binary"],
        "host": found["host"],
        "zone": call.api.settings.availability_zone,
        "status": "disabled" if state["disabled"] else "enabled",
        "state": up,
        "updated_at": found["seen_at"].isoformat(timespec="microseconds"),
        "disabled_reason": state["disabled_reason"],
        **({"cluster": None} if call.version >= (3, 7) else {}),
    }
    if found["binary"] == VOLUME:
        view |= {"replication_status": "disabled", "active_backend_id": None, "frozen": state["frozen"]}
        view |= {"backend_state": up} if call.version >= (3, 49) else {}
    return view


def _one(call: Call) -> Shown:
    """The service that the body names. Raises BadRequest when it names none, NotFound."""
    wanted = call.body.get("binary") or call.body.get("service")
    if not wanted:
        raise BadRequest("Invalid input for field/attribute binary: name the binary, as 'openstack volume service list' does")
    for each in _all(call):
        if (each["binary"], each["host"]) == (wanted, call.body["host"]):
            return each
    raise NotFound(f"Service {wanted} could not be found on host {call.body['host']}.")


def _switched(call: Call, disabled: bool, reason: str | None = None) -> dict[str, Any]:
    found = _one(call)
    if found["binary"] == SCHEDULER:
        raise BadRequest(
            "the scheduler is a part of the worker and cannot be disabled; disable backends, each by its cinder-volume"
        )
    state: ServiceStateRow = {**found["state"], "disabled": disabled, "disabled_reason": reason}
    worker(call).set_service_state(call.context, state=dict(state))
    names: dict[str, Any] = {"binary": found["binary"], "service": found["binary"], "host": found["host"]}
    switched: dict[str, Any] = {**names, "disabled": disabled, "status": "disabled" if disabled else "enabled"}
    return switched


def enable(call: Call) -> dict[str, Any]:
    """``PUT /os-services/enable``: new volumes are put there again. Raises NotFound."""
    return {**_switched(call, disabled=False), "disabled_reason": None}


def disable(call: Call) -> dict[str, Any]:
    """``PUT /os-services/disable``: no new volumes are put on the backend, or no new backups are made. Raises NotFound."""
    return _switched(call, disabled=True)


def disable_with_reason(call: Call) -> dict[str, Any]:
    """``PUT /os-services/disable-log-reason``: as ``disable``; the reason is shown. Raises NotFound."""
    reason = call.body["disabled_reason"]
    return {**_switched(call, disabled=True, reason=reason), "disabled_reason": reason}


def freeze(call: Call) -> None:
    """``PUT /os-services/freeze``: volumes of the backend are neither made, extended nor deleted. Raises BadRequest."""
    _freeze(call, frozen=True)


def thaw(call: Call) -> None:
    """``PUT /os-services/thaw``: takes ``freeze`` back. Raises BadRequest for a host that is none."""
    _freeze(call, frozen=False)


def _freeze(call: Call, frozen: bool) -> None:
    found = [each for each in _all(call) if each["binary"] == VOLUME and _is_on(each["host"], call.body["host"])]
    if not found:
        raise BadRequest(f"Invalid input received: Service {VOLUME} could not be found on host {call.body['host']}.")
    for each in found:
        state: ServiceStateRow = {**each["state"], "frozen": frozen}
        worker(call).set_service_state(call.context, state=dict(state))


def list_hosts(call: Call) -> dict[str, Any]:
    """``GET /os-hosts``: the services again, in the words of an older call; ``zone`` filters."""
    zone = call.api.settings.availability_zone
    shown = [
        {
            "host_name": each["host"],
            "service": each["binary"],
            "zone": zone,
            "service-status": "available" if each["up"] else "unavailable",
            "service-state": "disabled" if each["state"]["disabled"] else "enabled",
            "last-update": each["seen_at"].isoformat(timespec="microseconds"),
        }
        for each in _all(call)
    ]
    return {"hosts": shown if call.query.get("zone") in (None, "", zone) else []}


def show_host(call: Call) -> dict[str, Any]:
    """``GET /os-hosts/{host}``: what lies on a backend, in all and by project; sizes in GiB. Raises NotFound."""
    host = call.path["host"]
    if not [each for each in _all(call) if (each["binary"], each["host"]) == (VOLUME, host)]:
        raise NotFound(f"Host {host} could not be found.")
    with call.api.database.read() as connection:
        held = volumes.usage_of_backend(connection, host.partition("@")[2])
        kept = snapshots.usage_of_backend(connection, host.partition("@")[2])
    rows = [(project, held.get(project, (0, 0)), kept.get(project, (0, 0))) for project in sorted({*held, *kept})]
    total = ("(total)", _sum(held), _sum(kept))
    return {"host": [_resource(host, *each) for each in (total, *rows)]}


def _sum(found: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(count for count, _ in found.values()), sum(size for _, size in found.values())


def _resource(host: str, project: str, held: tuple[int, int], kept: tuple[int, int]) -> dict[str, Any]:
    figures = {
        "volume_count": held[0],
        "total_volume_gb": held[1],
        "snapshot_count": kept[0],
        "total_snapshot_gb": kept[1],
    }
    return {"resource": {"host": host, "project": project, **{name: str(each) for name, each in figures.items()}}}


def list_zones(call: Call) -> dict[str, Any]:
    """``GET /os-availability-zone``: the one zone of this deployment."""
    zone = {"zoneName": call.api.settings.availability_zone, "zoneState": {"available": True}}
    return {"availabilityZoneInfo": [zone]}


def list_extensions(_call: Call) -> dict[str, Any]:
    """``GET /extensions``: an empty list, which clients ask for before they use an extension of old."""
    return {"extensions": []}


_UPDATE = "volume_extension:services:update"
ROUTES = (
    Route("GET", "/os-services", list_services, "volume_extension:services:index"),
    Route("PUT", "/os-services/enable", enable, _UPDATE, 200, _SWITCH),
    Route("PUT", "/os-services/disable", disable, _UPDATE, 200, _SWITCH),
    Route("PUT", "/os-services/disable-log-reason", disable_with_reason, _UPDATE, 200, _REASON),
    Route("PUT", "/os-services/freeze", freeze, _UPDATE, 200, _FREEZE),
    Route("PUT", "/os-services/thaw", thaw, _UPDATE, 200, _FREEZE),
    Route("GET", "/os-hosts", list_hosts, "volume_extension:hosts"),
    Route("GET", "/os-hosts/{host}", show_host, "volume_extension:hosts"),
    Route("GET", "/os-availability-zone", list_zones, "volume:availability_zone_list"),
    Route("GET", "/extensions", list_extensions, "volume:availability_zone_list"),
)
