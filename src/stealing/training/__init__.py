"""Fitting with Lightning: schedules, checkpoints that resume exactly, progress, and the function that fits a module."""
