"""Defenses: what the service does to its answers."""
