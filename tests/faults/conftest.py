"""Fault tests have a yard of their own: they break it."""

from __future__ import annotations

from tests.e2e.conftest import clients, yard

__all__ = ["clients", "yard"]
