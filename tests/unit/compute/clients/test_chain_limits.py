"""Block storage's limits, as compute is told them."""

from typing import Any

import pytest
from msgspec.structs import asdict

from stillframe.compute.clients import chain_limits
from stillframe.compute.clients.chain_limits import ChainLimits
from stillframe.options import VOLUMES_OPTS
from stillframe.volumes.requests.attachments import CHAIN_LIMITS


def test_what_block_storage_says_holds() -> None:
    told = {"max_chain_depth": 5, "chain_depth_warning": 3, "minimum_free_mib": 7}
    assert chain_limits.of({"chain_limits": told}) == ChainLimits(5, 3, 7)
    assert ChainLimits(5, 3, 7).minimum_free == 7 << 20


@pytest.mark.parametrize(
    "told", [None, "text", [], {}, {"max_chain_depth": "5"}, {"max_chain_depth": 0, "minimum_free_mib": True, "more": 1}]
)
def test_where_it_does_not_its_defaults_hold(told: Any) -> None:
    assert chain_limits.of({"chain_limits": told}) == chain_limits.of({}) == ChainLimits()


def test_both_services_mean_the_same_limits_and_defaults() -> None:
    defaults = {option.name: option.default for option in VOLUMES_OPTS}
    assert asdict(ChainLimits()) == {name: defaults[name] for name in CHAIN_LIMITS}
