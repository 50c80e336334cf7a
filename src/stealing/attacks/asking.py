"""The place of `stealing.attacks.query_plan` in earlier versions, for classes of a user."""

from functools import partial

from stealing.moved import moved_name

__getattr__ = partial(moved_name, __name__)
