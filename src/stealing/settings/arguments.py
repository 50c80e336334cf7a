"""Arguments of constructors by name: their valid values, checked before any class is imported.

Constructors check their own arguments again, as they are also called without a configuration.
"""

from stealing.numbers import GREATEST, SIDE
from stealing.settings.kinds import Choice, Integer, Kind, Number, Several, Switch, Text
from stealing.settings.table import AMOUNT, ANY_COUNT, COUNT, POSITIVE, SEED, SHARE

BUILT_BY_NAME: dict[str, Kind] = {
    "lr": POSITIVE,
    "weight_decay": AMOUNT,
    "momentum": Number(0, 1, below=True),
    "temperature": POSITIVE,
    "betas": Several(Number(0, 1, below=True), 2),
    "eps": AMOUNT,
    "warmup": SHARE,
    "crop": Several(SHARE, 2),
    "flip": SHARE,
    "jitter": Several(SHARE, 4),
    "jitter_probability": SHARE,
    "view_weight": AMOUNT,
    "sigma": AMOUNT,
    "epsilon": AMOUNT,
    "seed": SEED,
    "size": Integer(1, SIDE),
    "count": ANY_COUNT,
    "skip": ANY_COUNT,
    "limit": COUNT,
    "per_class": COUNT,
    "parts": COUNT,
}
"""Arguments that mean the same in every constructor of this project and of torch.optim.

Null fits all of them here; the constructor knows whether it takes it.
"""

EVERYWHERE = frozenset({"lr", "weight_decay", "momentum", "temperature", "betas"})
"""Those that mean the same in a class of a user's own, too."""

ANY_NUMBER = Number(-GREATEST, GREATEST)
"""Other numbers of the project's constructors that have decimals."""

ANY_INTEGER = Integer(-SEED.high, SEED.high)
"""Other whole numbers of the project's constructors; a seed is the largest."""

OF_HYDRA: dict[str, Kind] = {
    "_target_": Text(),
    "_partial_": Switch(),
    "_recursive_": Switch(),
    "_convert_": Choice(("none", "partial", "object", "all")),
}
"""Keys of a node that Hydra reads; they are not arguments."""
