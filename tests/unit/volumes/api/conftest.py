"""Requests through the whole application."""

from pathlib import Path

import pytest

from tests.unit.volumes.rest import Rest
from tests.unit.volumes.site import Site


@pytest.fixture
def rest(site: Site, tmp_path: Path) -> Rest:
    return Rest(site, tmp_path)
