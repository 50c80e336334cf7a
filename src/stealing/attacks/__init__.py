"""Attacks: losses, pairings, and the module that trains a surrogate by them."""
