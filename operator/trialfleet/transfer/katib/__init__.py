"""Experiments of Katib, read as studies."""
