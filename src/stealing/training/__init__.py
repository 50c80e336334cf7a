"""Fitting with Lightning: schedules, checkpoints that resume exactly, progress, and the one function that fits a module."""
