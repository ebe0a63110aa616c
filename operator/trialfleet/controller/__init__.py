"""The operator: observe what is there, plan what should be, apply the difference.

``plan`` and everything under ``build`` and ``policies`` is pure: no clock, no cluster, no log.
"""
