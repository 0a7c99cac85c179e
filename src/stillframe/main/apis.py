"""The two REST services. An API process needs neither libvirt nor a share."""

from stillframe.compute import policies as compute_policies
from stillframe.compute.api import routes as compute_routes
from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.rpc.bus import Bus
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes.api import routes as volumes_routes
from stillframe.web import application, observe, server
from stillframe.web.auth import Authenticator, BasicAuth
from stillframe.web.connections import Limits
from stillframe.web.keystone import KeystoneAuth
from stillframe.web.policy import Enforcer
from stillframe.web.route import Door
from stillframe.web.withheld import Withheld


class Api:
    """One service behind two doors: the public port, and a Unix socket in the state directory for the other service. They
    share no thread and no connection, so whoever leans on the port does not stop the services from speaking to each other."""

    def __init__(self, public: server.Server, private: server.Server) -> None:
        self._doors = (public, private)
        self.port = public.port

    def start(self) -> None:
        for door in self._doors:
            door.start()

    def stop(self) -> None:
        for door in self._doors:
            door.stop()


def api(settings: Settings, database: Database, service: str, bus: Bus) -> Api:
    """Makes the HTTP servers of "volumes" or "compute", bound but not started. Raises BadConfiguration."""
    table, rules = {
        "volumes": (volumes_routes.SERVICE, volumes_policies.RULES),
        "compute": (compute_routes.SERVICE, compute_policies.RULES),
    }[service]
    own = settings.of(service)
    options = own.volumes if service == "volumes" else own.compute
    policy_file = settings.state_dir / "policy.yaml"
    enforcer = Enforcer(rules, str(policy_file) if policy_file.exists() else None)
    pages = {
        "/healthcheck": observe.health_page(database, f"stillframe-{service}"),
        "/metrics": observe.metrics_page(database),
    }
    # Whatever is known of the host's directories is kept from members, also what the other service's section names.
    door = Door(database, bus, own, Withheld(settings))
    made = application.make(table, door, authenticator(own), enforcer, pages)
    limits = Limits(settings.max_connections, settings.max_connections_per_peer)
    public = server.Server(made, server.tcp(options.listen, options.port), limits)
    alone = Limits(limits.connections, limits.connections)  # the only peer is the other service
    try:
        return Api(public, server.Server(made, server.unix(settings.api_socket(service)), alone))
    except BaseException:
        public.stop()
        raise


def authenticator(settings: Settings) -> Authenticator:
    """Who vouches for callers. Raises BadConfiguration when Keystone should and nobody says where it is."""
    if settings.auth.strategy == "keystone":
        return KeystoneAuth(settings.keystone)
    return BasicAuth(settings.users_file)
