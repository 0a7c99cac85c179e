"""/flavors and /limits: short answers that clients ask for while they list servers."""

from typing import Any

from stillframe.errors import NotFound
from stillframe.web.route import Call, Route

_FLAVOR = {
    "id": "libvirt",
    "name": "libvirt",
    "ram": 0,
    "vcpus": 0,
    "disk": 0,
    "swap": 0,
    "OS-FLV-EXT-DATA:ephemeral": 0,
    "OS-FLV-DISABLED:disabled": False,
    "os-flavor-access:is_public": True,
    "rxtx_factor": 1.0,
    "description": "As the domain's own description has it",
    "extra_specs": {},
    "links": [],
}


def list_all(_call: Call) -> dict[str, Any]:
    """``GET /flavors``: an empty list: libvirt knows the size of a server."""
    return {"flavors": [_FLAVOR]}


def show(call: Call) -> dict[str, Any]:
    """``GET /flavors/{id}``: there is none. Raises NotFound."""
    if call.path["id"] != _FLAVOR["id"]:
        raise NotFound(f"Flavor {call.path['id']} could not be found.")
    return {"flavor": _FLAVOR}


def limits(_call: Call) -> dict[str, Any]:
    """``GET /limits``: no limit is set here."""
    names = ("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize")
    return {"limits": {"rate": [], "absolute": dict.fromkeys(names, -1)}}


ROUTES = (
    Route("GET", "/flavors", list_all, "os_compute_api:flavors"),
    Route("GET", "/flavors/detail", list_all, "os_compute_api:flavors"),
    Route("GET", "/flavors/{id}", show, "os_compute_api:flavors"),
    Route("GET", "/limits", limits, "os_compute_api:limits"),
)
