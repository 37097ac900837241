"""The models that the merging tests share."""

from __future__ import annotations

import pytest
from zoo import Zoo, make_zoo


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return make_zoo()
