"""Shared fixtures. Tests run single-threaded: the study does, and two threads on two busy cores crawl."""

from __future__ import annotations

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often the smoke study is killed: see tests/workflow/test_faults.py."""
    parser.addoption("--kills", type=int, default=5, help="rounds of kill -9 at random moments of the smoke study")
