"""Chromium, for the examples: the fixtures of tests/browser."""

from __future__ import annotations

from tests.browser.conftest import chromium, open_tab, profile

__all__ = ["chromium", "open_tab", "profile"]
