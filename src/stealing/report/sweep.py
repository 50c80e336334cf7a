"""The place of `stealing.sweeps.record` in earlier versions, for configurations of a user."""

from functools import partial

from stealing.moved import moved_name

__getattr__ = partial(moved_name, __name__)
