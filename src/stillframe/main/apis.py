"""The two REST services. An API process needs neither libvirt nor a share."""

from stillframe.compute import policies as compute_policies
from stillframe.compute.api import routes as compute_routes
from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.rpc.bus import Bus
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes.api import routes as volumes_routes
from stillframe.web import application, observe
from stillframe.web.auth import Authenticator, BasicAuth
from stillframe.web.keystone import KeystoneAuth
from stillframe.web.policy import Enforcer
from stillframe.web.route import Door
from stillframe.web.server import Server


def api(settings: Settings, database: Database, service: str, bus: Bus) -> Server:
    """Makes the HTTP server of "volumes" or "compute", bound but not started."""
    table, rules, options = {
        "volumes": (volumes_routes.SERVICE, volumes_policies.RULES, settings.volumes),
        "compute": (compute_routes.SERVICE, compute_policies.RULES, settings.compute),
    }[service]
    policy_file = settings.state_dir / "policy.yaml"
    enforcer = Enforcer(rules, str(policy_file) if policy_file.exists() else None)
    pages = {
        "/healthcheck": observe.health_page(database, f"stillframe-{service}"),
        "/metrics": observe.metrics_page(database),
    }
    made = application.make(table, Door(database, bus, settings), authenticator(settings), enforcer, pages)
    return Server(made, options.listen, options.port)


def authenticator(settings: Settings) -> Authenticator:
    """Who vouches for callers. Raises BadConfiguration when Keystone should and nobody says where it is."""
    if settings.auth.strategy == "keystone":
        return KeystoneAuth(settings.keystone)
    return BasicAuth(settings.users_file)
