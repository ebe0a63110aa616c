"""Fixtures of the upgrade tests: those of the storage."""

from tests.storage.conftest import template, url

__all__ = ["template", "url"]
