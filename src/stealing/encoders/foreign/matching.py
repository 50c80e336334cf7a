"""Match a checkpoint with a network, name by name: its content in, weights under own names out."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stealing.encoders.checkpoints import Weights, state_dicts
from stealing.encoders.foreign.names import (
    HEADS,
    OTHER_BRANCHES,
    TEXT_TOWER,
    UNREAD,
    clean,
    source_of,
)
from stealing.errors import CheckpointError
from stealing.reading import quoted

Spelling = Mapping[str, str]
"""Own names of a network's weights by the names that a program gives them."""


@dataclass(frozen=True)
class Match:
    """The part of a checkpoint that is the encoder.

    Attributes:
        weights: under the network's own names.
        source: which program probably wrote it.
        left_out: names of heads and other branches.
        begin: beginning of the encoder's names.
        spelling: number of the spelling that fits, among those that were given.
    """

    weights: Weights
    source: str
    left_out: tuple[str, ...]
    begin: str
    spelling: int


@dataclass(frozen=True)
class _Candidate:
    """One state dict of a checkpoint, read with one beginning and one spelling."""

    place: str
    tensors: Mapping[str, Tensor]
    prefix: str
    spelling: int
    count: int

    @property
    def is_other(self) -> bool:
        """Return True for a second copy, such as a moving average."""
        parts = f"{self.place}.{self.prefix}".split(".")
        return not OTHER_BRANCHES.isdisjoint(parts)


def match(
    content: Mapping[str, Any],
    names: Iterable[str],
    path: Path,
    *more: Spelling,
    beside: Collection[str] = (),
) -> Match:
    """Return the weights of a network in a checkpoint.

    Args:
        content: of the checkpoint; state dicts may lie at any depth of it.
        names: of all weights and buffers of the network.
        path: of the checkpoint, for messages.
        more: spellings beside the network's own.
        beside: first parts of names that are another half of the model.

    Raises:
        CheckpointError: no part of it is this network; one of its weights is absent; or there is a
            weight that is neither the network's, nor of a head or branch that is known.
    """
    own = {name: name for name in names}
    spellings = [own, *more]
    best = _best(list(_candidates(content, spellings)))
    if best is None or 2 * best.count < len(own):
        raise CheckpointError(
            f"{path} does not hold this network: none of its state dicts has most of the weights "
            f"that begin with {quoted(next(iter(own)))}; name its network by target.name=."
        )
    weights: Weights = {}
    others = list[str]()
    spelling = spellings[best.spelling]
    for name, tensor in best.tensors.items():
        inner = name.removeprefix(best.prefix)
        if name.startswith(best.prefix) and inner in spelling:
            weights[spelling[inner]] = tensor
        else:
            others.append(name)
    unknown = list[str]()
    for name in others:
        if not is_left_out(name, best.prefix) and name.split(".")[0] not in beside:
            unknown.append(name)
    absent = [f"{best.prefix}{theirs}" for theirs, name in spelling.items() if name not in weights]
    absent = [name for name in absent if not name.endswith(UNREAD)]
    _check_complete(path, absent, unknown)
    begin = f"{best.place}.{best.prefix}".removeprefix(".")
    return Match(weights, source_of(begin, others), tuple(others), begin, best.spelling)


def _check_complete(path: Path, absent: Sequence[str], unknown: Sequence[str]) -> None:
    if not absent and not unknown:
        return
    faults = []
    if absent:
        faults.append(f"it lacks {quoted(absent[0])}")
    if unknown:
        faults.append(f"{quoted(unknown[0])} is no weight of it, nor of a head that is known")
    raise CheckpointError(
        f"{path} does not fit the network: {', and '.join(faults)}; correct the names in the file, "
        "or name the network that they are of."
    )


def _candidates(content: Mapping[str, Any], spellings: Sequence[Spelling]) -> Iterator[_Candidate]:
    """Yield each state dict with each beginning under which it has weights of the network."""
    for place, tensors in state_dicts(content):
        cleaned = {clean(name): tensor for name, tensor in tensors.items()}
        if len(cleaned) < len(tensors):
            # Two names differ only in their wrappers.
            cleaned = dict(tensors)
        for number, spelling in enumerate(spellings):
            for prefix, count in _beginnings(cleaned, spelling).items():
                yield _Candidate(place, cleaned, prefix, number, count)


def _beginnings(tensors: Iterable[str], spelling: Spelling) -> Counter[str]:
    """Count, for each beginning, how many names of the network follow it."""
    counts = Counter[str]()
    for name in tensors:
        rest = name
        while True:
            if rest in spelling:
                counts[name[: len(name) - len(rest)]] += 1
            _, dot, rest = rest.partition(".")
            if not dot:
                break
    return counts


def _best(candidates: Sequence[_Candidate]) -> _Candidate | None:
    """Return what is evaluated of a checkpoint: most weights, and no second copy if it has a first.

    A damaged first copy is taken too, so that it is refused and the second is not taken silently.
    """
    if not candidates:
        return None
    most = max(candidate.count for candidate in candidates)
    large = [candidate for candidate in candidates if 2 * candidate.count >= most]
    first = [candidate for candidate in large if not candidate.is_other]
    # `max` returns the first of equals, which is the outermost.
    return max(first or large, key=lambda candidate: candidate.count)


def is_left_out(name: str, prefix: str) -> bool:
    """Return True for a weight of a known head, of another branch, or of a text tower."""
    if name.endswith(UNREAD):
        return True
    inner = name.removeprefix(prefix).split(".")[0]
    if inner in HEADS or inner in TEXT_TOWER:
        return True
    parts = name.split(".")
    return any(part in HEADS or part in OTHER_BRANCHES for part in parts[:2]) or (
        parts[0] in TEXT_TOWER
    )


def check_shapes(weights: Weights, own: Mapping[str, Tensor], path: Path) -> list[str]:
    """Refuse weights of other shapes or kinds of numbers than a network's.

    Args:
        weights: of a checkpoint, under the network's names.
        own: state dict of the network, which may be without memory.
        path: of the checkpoint, for messages.

    Returns:
        Sentences about weights that are converted.

    Raises:
        CheckpointError: with the name of the weight.
    """
    halves = set[str]()
    for name, tensor in weights.items():
        wanted = own[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path} does not fit the network: {quoted(name)} has the shape "
                f"{tuple(tensor.shape)}, and the network's has {tuple(wanted.shape)}; "
                "name the network that it is of."
            )
        if tensor.dtype == wanted.dtype:
            continue
        if not tensor.dtype.is_floating_point or not wanted.dtype.is_floating_point:
            raise CheckpointError(
                f"{path} does not fit the network: {quoted(name)} is {tensor.dtype}, and has to be "
                f"{wanted.dtype}: a quantised file is not read."
            )
        halves.add(str(tensor.dtype).removeprefix("torch."))
    if not halves:
        return []
    return [f"weights are stored in {', '.join(sorted(halves))} and computed in float32"]


def fill(network: Any, weights: Weights) -> None:
    """Copy matched weights into a network; absent counters of BatchNorm stay at 0."""
    state = network.state_dict()
    network.load_state_dict(state | weights)
