"""Where the commands get their client from: OpenStackClient's connection, or clouds.yaml when they stand alone."""

import argparse
from functools import cached_property
from typing import Any

from stillframe.client import CLOUD
from stillframe.client.assisted_snapshots import AssistedSnapshots
from stillframe.errors import NotInstalled

API_NAME = "assisted_snapshot"
API_VERSION_OPTION = "os_assisted_snapshot_api_version"
API_VERSIONS = {"1": "stillframe.client.osc.plugin"}
DEFAULT_API_VERSION = "1"


def make_client(instance: Any) -> AssistedSnapshots:
    """Called by OpenStackClient; credentials, regions and endpoints are its own."""
    connection = instance.sdk_connection
    return AssistedSnapshots(connection.compute, connection.block_storage)


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Called by OpenStackClient; there is one version of this API."""
    parser.add_argument(
        "--os-assisted-snapshot-api-version", default=DEFAULT_API_VERSION, metavar="VERSION", help=argparse.SUPPRESS
    )
    return parser


class StandAlone:
    """What OpenStackClient calls a client manager, made from clouds.yaml by openstacksdk."""

    def __init__(self, cloud: str | None) -> None:
        self._cloud = cloud

    @cached_property
    def sdk_connection(self) -> Any:
        try:
            import openstack
        except ModuleNotFoundError as error:
            raise NotInstalled("the commands need openstacksdk: pip install 'stillframe[client]'") from error
        return openstack.connect(cloud=self._cloud or CLOUD)

    @property
    def assisted_snapshot(self) -> AssistedSnapshots:
        return AssistedSnapshots(self.sdk_connection.compute, self.sdk_connection.block_storage)
