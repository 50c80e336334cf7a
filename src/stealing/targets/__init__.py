"""Targets: what answers."""
