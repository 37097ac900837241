"""Shared fixtures. Tests run single-threaded: the study does, and two threads on two busy cores crawl."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
