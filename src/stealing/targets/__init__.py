"""Targets: what answers the queries: an encoder in this process, a service, or a recording."""
