"""The models that the merging tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from zoo import Zoo, make_zoo


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return make_zoo()
