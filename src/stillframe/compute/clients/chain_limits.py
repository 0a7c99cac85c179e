"""What block storage says of a chain in the connection_info: how deep it may grow, how much room the share wants, and what is
recorded of its files."""

from collections.abc import Mapping
from typing import Any

from stillframe.chain.image import Recorded
from stillframe.journal.typed import Value

KEY = "chain_limits"


class ChainLimits(Value, frozen=True):
    """The defaults are for a block storage that does not say."""

    max_chain_depth: int = 64
    chain_depth_warning: int = 32
    minimum_free_mib: int = 64

    @property
    def minimum_free(self) -> int:
        """In bytes."""
        return self.minimum_free_mib << 20


def of(document: Mapping[str, Any]) -> ChainLimits:
    """Returns the limits that a volume's connection_info holds."""
    limits = document.get(KEY)
    known = set(ChainLimits.__struct_fields__)
    said = {name: value for name, value in limits.items() if name in known} if isinstance(limits, dict) else {}
    return ChainLimits(**{name: value for name, value in said.items() if type(value) is int and value > 0})


def recorded(document: Mapping[str, Any]) -> Recorded:
    """Returns what a volume's connection_info says of its files beyond their names."""
    return Recorded(document.get("parent_image"), document.get("base_file"))
