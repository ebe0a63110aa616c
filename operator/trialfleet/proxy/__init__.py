"""The gRPC server between workers and PostgreSQL.

Thin: a message becomes a command or a read of :class:`~trialfleet.storage.Storage`, its answer
a message. :func:`~trialfleet.proxy.server.serve` runs it.
"""
