"""The two REST services. An API process needs neither libvirt nor a share."""

from stillframe.compute import policies as compute_policies
from stillframe.compute.api import routes as compute_routes
from stillframe.config import Settings
from stillframe.db import adopted_disks
from stillframe.db.engine import Database
from stillframe.main import endpoints
from stillframe.rpc.bus import Bus
from stillframe.volumes import policies as volumes_policies
from stillframe.volumes.api import routes as volumes_routes
from stillframe.web import application, observe, server
from stillframe.web.auth import Authenticator, BasicAuth
from stillframe.web.certificates import Certificates
from stillframe.web.keystone import KeystoneAuth
from stillframe.web.limits import Limits
from stillframe.web.policy import Enforcer
from stillframe.web.proxies import Proxies
from stillframe.web.route import ApiContext
from stillframe.web.withheld import Withheld


class Api:
    """One service behind two sockets: the public port, and a Unix socket in the state directory for the other service. The two
    share no thread and no connection, so a flood on the port does not stop the services from talking to each other."""

    def __init__(self, public: server.Server, private: server.Server, shown: Certificates | None) -> None:
        self._servers = (public, private)
        self._certificates = shown
        self.port = public.port

    def start(self) -> None:
        for each in self._servers:
            each.start()

    def read_again(self) -> None:
        """Reads the certificate again, for new connections."""
        if self._certificates is not None:
            self._certificates.read_again()

    def stop(self) -> None:
        for each in self._servers:
            each.stop()


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
    # Members must not see any directory of the host, including those that the other service's section names.
    api = ApiContext(database, bus, own, Withheld(settings, lambda: _adopted(database)), endpoints.public(settings, service))
    made = application.make(table, api, authenticator(own), enforcer, pages)
    limits = Limits(settings.max_connections, settings.max_connections_per_peer)
    shown = endpoints.certificates(settings, service)
    front = server.Front(limits, shown, Proxies(settings.trusted_proxies))
    public = server.Server(made, server.tcp(options.listen, options.port), front)
    alone = Limits(limits.connections, limits.connections)  # the only peer is the other service
    try:
        return Api(public, server.Server(made, server.unix(settings.api_socket(service)), server.Front(alone)), shown)
    except BaseException:
        public.stop()
        raise


def _adopted(database: Database) -> set[str]:
    with database.read() as connection:
        return adopted_disks.directories(connection)


def authenticator(settings: Settings) -> Authenticator:
    """Returns what authenticates callers. Raises BadConfiguration when Keystone should and the configuration does not say where
    it is."""
    if settings.auth.strategy == "keystone":
        return KeystoneAuth(settings.keystone)
    return BasicAuth(settings.users_file)
