"""Measure how easily an image encoder can be stolen through its API (StolenEncoder, arXiv:2201.05889, and beyond)."""
