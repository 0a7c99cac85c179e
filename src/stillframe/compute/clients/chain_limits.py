"""How deep block storage lets a chain grow, and how much room it wants on a share: it says so in the connection_info."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

KEY = "chain_limits"


@dataclass(frozen=True)
class ChainLimits:
    """The defaults are for a block storage that does not say."""

    max_chain_depth: int = 64
    chain_depth_warning: int = 32
    minimum_free_mib: int = 64

    @property
    def minimum_free(self) -> int:
        """In bytes."""
        return self.minimum_free_mib << 20


def of(document: Mapping[str, Any]) -> ChainLimits:
    """Returns the limits that a volume's connection_info, or an intent made from it, holds."""
    told = document.get(KEY)
    known = {field.name for field in fields(ChainLimits)}
    said = {name: value for name, value in told.items() if name in known} if isinstance(told, dict) else {}
    return ChainLimits(**{name: value for name, value in said.items() if type(value) is int and value > 0})
