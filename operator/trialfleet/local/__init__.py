"""The same study on one machine: PostgreSQL, a proxy and workers as processes."""
