"""Suanli (算力): placement of AI jobs and digital twins under latency and PUE limits."""

from __future__ import annotations

__version__ = "0.1.0"
