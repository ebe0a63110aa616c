"""Policies: each takes what was observed and returns a frozen decision. Pure."""
