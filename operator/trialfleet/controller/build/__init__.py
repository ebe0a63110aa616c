"""Builders: from a resource to the objects of Kubernetes that it needs. Pure."""
