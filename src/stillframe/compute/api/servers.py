"""/servers: the servers libvirt has, as clients read them, and the power actions."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from stillframe.compute.rpcapi import worker
from stillframe.errors import BadRequest
from stillframe.web import body, paging
from stillframe.web.route import Call, Route

_KNOWN_QUERY = {
    "all_tenants",
    "all_projects",
    "changes-since",
    "deleted",
    "limit",
    "marker",
    "name",
    "project_id",
    "sort_dir",
    "sort_key",
    "status",
}


def view(call: Call, server: dict[str, Any]) -> dict[str, Any]:
    """Returns a server as the API shows it at the call's microversion."""
    settings = call.api.settings
    shown: dict[str, Any] = {
        "id": server["id"],
        "name": server["name"],
        "status": server["status"],
        "tenant_id": server["project_id"],
        "user_id": server["user_id"],
        "metadata": {},
        "hostId": "",
        "image": "",
        "flavor": _flavor(call, server),
        "addresses": {},
        "links": _links(call, server["id"]),
        "created": None,
        "updated": None,
        "progress": 0,
        "accessIPv4": "",
        "accessIPv6": "",
        "key_name": None,
        "config_drive": "",
        "security_groups": [],
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": settings.availability_zone,
        "OS-EXT-STS:task_state": None,
        "OS-EXT-STS:vm_state": {"ACTIVE": "active", "SHUTOFF": "stopped"}.get(server["status"], server["status"].lower()),
        "OS-EXT-STS:power_state": server["power_state"],
        "OS-SRV-USG:launched_at": None,
        "OS-SRV-USG:terminated_at": None,
        "os-extended-volumes:volumes_attached": [
            {"id": volume["id"], **({"delete_on_termination": False} if call.version >= (2, 3) else {})}
            for volume in server["volumes"]
        ],
    }
    if call.context.sees_all_projects:
        shown["OS-EXT-SRV-ATTR:host"] = shown["OS-EXT-SRV-ATTR:hypervisor_hostname"] = settings.host
        shown["OS-EXT-SRV-ATTR:instance_name"] = server["name"]
    for since, name, value in (
        ((2, 9), "locked", False),
        ((2, 19), "description", None),
        ((2, 26), "tags", []),
        ((2, 63), "trusted_image_certificates", None),
        ((2, 71), "server_groups", []),
        ((2, 73), "locked_reason", None),
    ):
        if call.version >= since:
            shown[name] = value
    return shown


def _flavor(call: Call, server: dict[str, Any]) -> dict[str, Any]:
    if call.version < (2, 47):
        return {"id": "libvirt", "links": []}
    return {
        "original_name": "libvirt",
        "vcpus": server["vcpus"],
        "ram": server["memory_mib"],
        "disk": 0,
        "ephemeral": 0,
        "swap": 0,
        "extra_specs": {},
    }


def _links(call: Call, server_id: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": f"{call.base_url}/servers/{server_id}"},
        {"rel": "bookmark", "href": f"{call.base_url.rpartition('/v2.1')[0]}/servers/{server_id}"},
    ]


def _listed(call: Call) -> list[dict[str, Any]]:
    unknown = set(call.query) - _KNOWN_QUERY
    if unknown:
        raise BadRequest(f"unknown query parameters: {', '.join(sorted(unknown))}")
    all_projects = call.query.get("all_tenants", call.query.get("all_projects", "0")).lower() in ("1", "true", "")
    if call.query.get("deleted", "false").lower() in ("1", "true"):
        return []
    found = sorted(worker(call).list_servers(call.context, all_projects=all_projects), key=lambda server: str(server["id"]))
    for key, name in (("name", "name"), ("status", "status"), ("project_id", "project_id")):
        if key in call.query:
            found = [server for server in found if str(server[name]).lower() == call.query[key].lower()]
    if "marker" in call.query:
        found = [server for server in found if server["id"] > call.query["marker"]]
    return found


def _paged(call: Call, found: list[dict[str, Any]], show_one: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    limit = min(paging.number(call, "limit", paging.MAX_LIMIT) or paging.MAX_LIMIT, paging.MAX_LIMIT)
    shown = found[:limit]
    answer: dict[str, Any] = {"servers": [show_one(server) for server in shown]}
    if len(found) > limit or (shown and len(shown) == limit and "limit" in call.query):
        query = {**call.query, "limit": str(limit), "marker": shown[-1]["id"]}
        answer["servers_links"] = [{"rel": "next", "href": f"{call.collection_url}?{urlencode(query)}"}]
    return answer


def list_brief(call: Call) -> dict[str, Any]:
    """``GET /servers``: id, name and links of each server of the project."""
    return _paged(call, _listed(call), lambda each: {"id": each["id"], "name": each["name"], "links": _links(call, each["id"])})


def list_detail(call: Call) -> dict[str, Any]:
    """``GET /servers/detail``: the servers of the project, each as ``view`` has it."""
    return _paged(call, _listed(call), lambda each: view(call, each))


def show(call: Call) -> dict[str, Any]:
    """``GET /servers/{id}``: one server. Raises NotFound."""
    return {"server": view(call, worker(call).show_server(call.context, server_id=call.path["id"]))}


def _power(action: str) -> Any:
    def handler(call: Call) -> None:
        worker(call).power(call.context, server_id=call.path["id"], action=action)

    return handler


_REBOOT = body.wrapped("reboot", {"type": {"enum": ["HARD", "hard"]}}, ("type",))


def reboot(call: Call) -> None:
    """``reboot``: SOFT asks the guest, HARD resets the machine. Raises NotFound, Conflict."""
    worker(call).power(call.context, server_id=call.path["id"], action="reboot")


_ACTION, _POLICY = "/servers/{id}/action", "os_compute_api:servers:power"
ROUTES = (
    Route("GET", "/servers", list_brief, "os_compute_api:servers:index"),
    Route("GET", "/servers/detail", list_detail, "os_compute_api:servers:index"),
    Route("GET", "/servers/{id}", show, "os_compute_api:servers:index"),
    Route("POST", _ACTION, _power("start"), _POLICY, 202, action="os-start"),
    Route("POST", _ACTION, _power("stop"), _POLICY, 202, action="os-stop"),
    Route("POST", _ACTION, _power("pause"), _POLICY, 202, action="pause"),
    Route("POST", _ACTION, _power("unpause"), _POLICY, 202, action="unpause"),
    Route("POST", _ACTION, _power("resume"), _POLICY, 202, action="resume"),
    Route("POST", _ACTION, reboot, _POLICY, 202, _REBOOT, "reboot"),
)
