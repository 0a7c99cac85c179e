"""``stillframe chain show``: OpenStackClient's ``volume chain show``, with a cloud of clouds.yaml of its own."""

from typing import Any

from stillframe.client.chains import Chains
from stillframe.client.credentials import CLOUD
from stillframe.client.osc import chain


class Show(chain.Show):
    """Show the files a volume is made of, what each holds and who needs it"""

    @property
    def chains(self) -> Chains:
        import openstack

        app: Any = self.app
        return Chains(openstack.connect(cloud=app.options.os_cloud or CLOUD).block_storage)
