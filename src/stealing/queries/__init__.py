"""Queries: the metered door, the bank behind it, and the choice of images to send."""
