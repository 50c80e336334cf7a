"""The guard: features and account in; worse answers or none out if it asks like an attacker.

Three signals of an account are compared with those of honest accounts after as many images: how
much of the feature space it has seen, how far its images lie from honest ones, and how many are
near copies of each other. A suspected account is slowed, degraded or stopped.

Shape letters: B images, D feature width, K sizes of the reference, R projections, M recent images.
"""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stealing.defenses.chain import QueryBatch, StatefulDefense
from stealing.defenses.coverage import Coverage
from stealing.defenses.keyed import Purpose, Secret
from stealing.errors import CheckpointError, ConfigError, Refused
from stealing.numbers import LEAST, check_integer, check_number

POLICIES = ("slow", "degrade", "stop")
SIGNALS = ("coverage", "distance", "near")

PROJECTIONS = 32
"""R, numbers that are stored of each image to find near copies."""

RECENT = 128
"""M, the last images of an account that are stored; with R float16 numbers each, 8 KB."""


@dataclass
class Watched:
    """State of one account.

    Attributes:
        images: number asked in this window.
        distance: sum of their squared distances from honest images, a dimension.
        near: number of near copies among them.
        recent_MR: projected features of the last images, float16.
        free_at: moment from which a slowed account may ask again.
    """

    images: int = 0
    distance: float = 0.0
    near: int = 0
    recent_MR: Tensor = field(
        default_factory=lambda: torch.zeros(0, PROJECTIONS, dtype=torch.float16)
    )
    free_at: float = 0.0


class Watch:
    """The three signals of every account.

    Args:
        mean_D, whiten_DD: of honest features: (x - mean) @ whiten has unit covariance.
        closeness: cosine of two images' projected features from which on they are near copies.
        window: images after which an account is watched anew, because the reference does not show
            how honest accounts look after more.
        secret: of planes and projections.
    """

    def __init__(
        self, mean_D: Tensor, whiten_DD: Tensor, closeness: float, window: int, secret: Secret
    ) -> None:
        self.mean_D = mean_D
        self.whiten_DD = whiten_DD
        self.closeness = closeness
        self.window = window
        self.coverage = Coverage(planes=12, tables=20, secret=secret)
        draws = secret.generator("projections", len(mean_D))
        projection = draws.standard_normal((len(mean_D), PROJECTIONS), np.float32)
        self._projection_DR = torch.from_numpy(projection)
        self.accounts: dict[str, Watched] = {}

    def see(self, account: str, features_BD: Tensor) -> NDArray[np.float64]:
        """Add images to an account.

        Returns:
            Coverage, mean squared distance a dimension and share of near copies after them, (3,).
        """
        state = self.accounts.setdefault(account, Watched())
        if state.images >= self.window:
            self.coverage.load(account, None)
            state = Watched(free_at=state.free_at)
            self.accounts[account] = state
        # beyond the clamp, float32 overflows in the products below
        centred_BD = (features_BD - self.mean_D).clamp(-1e6, 1e6)
        white_BD = centred_BD @ self.whiten_DD
        state.images += len(features_BD)
        state.distance += float(white_BD.double().square().mean(1).sum())
        state.near += self._count_near_copies(state, centred_BD)
        covered = float(self.coverage.after(account, features_BD)[-1])
        return np.array([covered, state.distance / state.images, state.near / state.images])

    def _count_near_copies(self, state: Watched, centred_BD: Tensor) -> int:
        """Return how many new images are near copies of an earlier one; store the last."""
        before = len(state.recent_MR)
        points_BR = F.normalize(centred_BD @ self._projection_DR, dim=1).half()
        both = torch.cat([state.recent_MR, points_BR])
        is_near = points_BR.float() @ both.float().T > self.closeness
        # image i of this request is compared with the M images before it, and not with itself
        is_earlier = torch.ones_like(is_near).tril(before - 1).triu(before - RECENT)
        state.recent_MR = both[-RECENT:]
        return int((is_near & is_earlier).any(1).sum())


class HonestTraffic:
    """The signals of honest accounts after some numbers of images.

    Args:
        sizes_K: numbers of images at which honest accounts were measured.
        centre_K3: mean of the signals over honest accounts.
        spread_K3: their deviation.
    """

    def __init__(
        self,
        sizes_K: NDArray[np.float64],
        centre_K3: NDArray[np.float64],
        spread_K3: NDArray[np.float64],
    ) -> None:
        self._log_sizes_K = np.log(sizes_K)
        self._centre_K3 = centre_K3
        self._spread_K3 = spread_K3

    def deviations(self, images: int, signals_3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of signals (3,) from the honest mean, in honest deviations, (3,)."""
        centre_3 = self._at(images, self._centre_K3)
        spread_3 = self._at(images, self._spread_K3)
        above_3: NDArray[np.float64] = (signals_3 - centre_3) / spread_3
        return above_3

    def _at(self, images: int, table_K3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate each column between the sizes, log-linearly."""
        size = np.log(max(images, 1))
        return np.array([np.interp(size, self._log_sizes_K, column_K) for column_K in table_K3.T])


class Guard(StatefulDefense):
    """Slows, degrades or stops an account whose signals differ from those of honest accounts.

    The score of an account is the greatest of its three signals' distances from the honest mean
    after as many images, in honest deviations. A request is judged by the requests before it. An
    account is watched in windows as long as the reference; until a new window has `patience`
    images, the score of the last one holds.

    Limit: an attacker who spreads the queries over so many accounts that none of them reaches
    `patience` images is never judged.

    Args:
        reference: safetensors file of honest traffic, which `benchmarks/detection.py` writes.
        threshold: score from which on an account is suspected.
        patience: images of a window before which it is not judged.
        policy: `slow`, `degrade` or `stop`.
        rate: images a second that a suspected account gets, for `slow`.
        sigma: deviation of the noise on its answers, for `degrade`.
        closeness: cosine from which on two images of an account count as near copies.
        secret: environment variable with the key of planes and noise, or None for a public key.

    Raises:
        ConfigError, CheckpointError: a setting or the reference cannot be used.
    """

    def __init__(
        self,
        reference: str,
        threshold: float,
        patience: int,
        policy: str,
        rate: float,
        sigma: float,
        closeness: float,
        secret: str | None,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError(
                f"defense.guard.policy={policy} is not one of {', '.join(POLICIES)}: choose one."
            )
        check_number("defense.guard.threshold", threshold, LEAST)
        check_integer("defense.guard.patience", patience)
        check_number("defense.guard.rate", rate, LEAST)
        check_number("defense.guard.sigma", sigma)
        check_number("defense.guard.closeness", closeness, high=1)
        if not Path(reference).is_file():
            raise CheckpointError(
                f"defense.guard.reference={reference} does not exist: "
                "write it by benchmarks/detection.py."
            )
        self.threshold = threshold
        self.patience = patience
        self.policy = policy
        self.rate = rate
        self.sigma = sigma
        self._secret = Secret(secret)
        content = Path(reference).read_bytes()
        self.private = self._secret.hash + hashlib.blake2b(content, digest_size=8).hexdigest()
        tensors, self._encoder = _read_reference(reference)
        window = int(tensors["sizes"].max())
        self.watch = Watch(tensors["mean"], tensors["whiten"], closeness, window, self._secret)
        self._honest = HonestTraffic(
            tensors["sizes"].numpy(), tensors["centre"].numpy(), tensors["spread"].numpy()
        )
        self._scores: dict[str, float] = {}

    def check(self, encoder: str) -> None:
        """Refuse an encoder that the reference was not made for; see `Fitted`."""
        if encoder != self._encoder:
            raise ConfigError(
                f"defense.guard.reference is of encoder {self._encoder[:8]}, and this one is "
                f"{encoder[:8]}: write one by benchmarks/detection.py --encoder."
            )

    def answer(self, features_BD: Tensor, asked: QueryBatch) -> Tensor:
        """Return the features (B, D), unchanged for an account that is not suspected.

        Raises:
            Refused: the account is stopped, or has to wait.
            ConfigError: the features are not of the reference's width.
        """
        width = features_BD.shape[1]
        if width != len(self.watch.mean_D):
            raise ConfigError(
                f"defense.guard.reference is of features of width {len(self.watch.mean_D)}, "
                f"and these are of width {width}: put guard first."
            )
        # the score before these images: they are judged at the next request
        is_suspected = self._scores.get(asked.account, 0.0) >= self.threshold
        if is_suspected:
            self._refuse(asked, len(features_BD))
        self._judge(asked.account, features_BD)
        if is_suspected and self.policy == "degrade":
            purposes: list[Purpose] = [("guard", digest) for digest in asked.digests]
            return features_BD + self.sigma * self._secret.normal(purposes, width)
        return features_BD

    def _refuse(self, asked: QueryBatch, images: int) -> None:
        """Raise `Refused` if a suspected account is stopped or asks too soon."""
        if self.policy == "stop":
            raise Refused("This account's queries look like an extraction attack. It is stopped.")
        if self.policy == "slow":
            state = self.watch.accounts.setdefault(asked.account, Watched())
            if asked.seconds < state.free_at:
                wait = state.free_at - asked.seconds
                raise Refused(
                    f"This account gets {self.rate:g} images a second: wait {wait:.1f} seconds.",
                    wait,
                )
            state.free_at = asked.seconds + images / self.rate

    def _judge(self, account: str, features_BD: Tensor) -> None:
        """Add images to an account, and score it anew once the window has enough of them."""
        signals_3 = self.watch.see(account, features_BD)
        images = self.watch.accounts[account].images
        if images >= self.patience:
            self._scores[account] = float(self._honest.deviations(images, signals_3).max())

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace signals, score and coverage of one account."""
        self.watch.accounts.pop(account, None)
        self.watch.coverage.load(account, None)
        self._scores.pop(account, None)
        if not memory:
            return
        arrays = np.load(io.BytesIO(memory))
        images, distance, near, free_at, score = arrays["numbers"].tolist()
        recent_MR = torch.from_numpy(arrays["recent"])
        self.watch.accounts[account] = Watched(int(images), distance, int(near), recent_MR, free_at)
        self._scores[account] = score
        self.watch.coverage.load(account, arrays["coverage"].tobytes())

    def dump(self, account: str) -> bytes:
        """Return signals, score and coverage of one account, as NumPy arrays."""
        state = self.watch.accounts[account]
        score = self._scores.get(account, 0.0)
        numbers = np.array([state.images, state.distance, state.near, state.free_at, score])
        coverage = np.frombuffer(self.watch.coverage.dump(account), np.uint8)
        stream = io.BytesIO()
        np.savez(stream, numbers=numbers, recent=state.recent_MR.numpy(), coverage=coverage)
        return stream.getvalue()


def _read_reference(path: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a reference, and the fingerprint of its encoder."""
    tensors = dict[str, Tensor]()
    try:
        with safe_open(path, "pt") as file:
            for name in ("mean", "whiten", "sizes", "centre", "spread"):
                tensors[name] = file.get_tensor(name)
            encoder = (file.metadata() or {}).get("encoder")
    except SafetensorError as error:
        raise CheckpointError(
            f"defense.guard.reference={path} is not a reference ({error}): "
            "write one by benchmarks/detection.py."
        ) from None
    if encoder is None:
        raise CheckpointError(
            f"defense.guard.reference={path} does not say of which encoder it is: "
            "write it again by benchmarks/detection.py."
        )
    return tensors, encoder
