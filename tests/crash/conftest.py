"""The crash tests stop one operation after the other on the same volumes, so their chains may become deep."""

from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, open_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("lab"), "[volumes]\nmax_chain_depth = 150\n")
    try:
        made.add_guest(3)
        yield made
    finally:
        made.clear()
