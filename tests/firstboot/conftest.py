from __future__ import annotations

import pytest

from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two of one fleet."""
    key = FleetKey.create(tmp_path_factory.mktemp("fleet"))
    first, second = (key.invite([Bootstrap("10.0.0.1", 7321 + n)]).text for n in range(2))
    return first, second
