"""Fixtures of the tests of moving studies: those of the storage, and a folder."""

from tests.local.conftest import folder
from tests.storage.conftest import quiet, shared_url, template, url

__all__ = ["folder", "quiet", "shared_url", "template", "url"]
