"""Evaluation: features, probes, controls, fidelity and intervals."""
