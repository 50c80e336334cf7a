"""Tell a thief's account from a customer's by what it asks, and slow, degrade or stop it.

Three signals of an account, each held against what honest accounts show after as many images: how much of the feature
space it has seen, how far its images lie from honest ones, and how many are near copies of each other.

Shape letters: B images, D feature width, K sizes of the reference, R projections, M images kept.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stealing.defenses.chain import Asked
from stealing.defenses.coverage import Coverage
from stealing.defenses.keyed import Secret
from stealing.errors import CheckpointError, ConfigError, Refused

POLICIES = ("slow", "degrade", "stop")
SIGNALS = ("coverage", "distance", "near")
PROJECTIONS, KEPT = 32, 128
"""R numbers an image are kept of the last M images of an account, to find near copies: 8 KB."""


@dataclass
class Watched:
    """An account: images asked, their summed distance, near copies, the last images, when it may ask again."""

    images: int = 0
    distance: float = 0.0
    near: int = 0
    recent_MR: Tensor = field(default_factory=lambda: torch.zeros(0, PROJECTIONS, dtype=torch.float16))
    free_at: float = 0.0


class Watch:
    """The three signals of every account.

    Args:
        mean_D, whiten_DD: of honest features: (x - mean) @ whiten has unit covariance.
        closeness: cosine of two images' projected features, from which on they are near copies.
        window: images after which an account is looked at anew, as nobody knows what honest ones show after more.
        secret: of planes and projections.
    """

    def __init__(self, mean_D: Tensor, whiten_DD: Tensor, closeness: float, window: int, secret: Secret) -> None:
        self.mean_D, self.whiten_DD, self.closeness, self.window = mean_D, whiten_DD, closeness, window
        self.coverage = Coverage(12, 20, secret)
        drawn = secret.generator("projections", len(mean_D)).standard_normal((len(mean_D), PROJECTIONS), np.float32)
        self._projection_DR = torch.from_numpy(drawn)
        self.accounts: dict[str, Watched] = {}

    def see(self, account: str, features_BD: Tensor) -> NDArray[np.float64]:
        """Coverage, mean squared distance a dimension and share of near copies (3,), after these images too."""
        known = self.accounts.setdefault(account, Watched())
        if known.images >= self.window:
            self.coverage.load(account, None)
            self.accounts[account] = known = Watched(free_at=known.free_at)
        white = (features_BD - self.mean_D).clamp(-1e6, 1e6) @ self.whiten_DD
        known.distance += float(white.double().square().mean(1).sum())
        known.images += len(features_BD)
        points = F.normalize((features_BD - self.mean_D).clamp(-1e6, 1e6) @ self._projection_DR, dim=1).half()
        both = torch.cat([known.recent_MR, points])
        alike = points.float() @ both.float().T > self.closeness
        earlier = torch.ones_like(alike).tril(len(known.recent_MR) - 1).triu(len(known.recent_MR) - KEPT)
        known.near += int((alike & earlier).any(1).sum())
        known.recent_MR = both[-KEPT:]
        covered = float(self.coverage.after(account, features_BD)[-1])
        return np.array([covered, known.distance / known.images, known.near / known.images])


class Guard:
    """Suspects an account whose signals are stranger than those of honest ones, and treats it by a policy.

    A request is judged by those before it. The score is the greatest of the three signals' distances from the honest
    mean after as many images, in honest deviations. Whoever spreads a theft over so many accounts that none of them has
    patience's images is never judged. An account is looked at in windows, as long as the reference; until
    a new one has some patience's images, the last one's score stands.

    Args:
        reference: safetensors file of honest traffic, which `benchmarks/detection.py` writes.
        threshold: score from which on an account is suspected.
        patience: images of a window before which it is not judged.
        policy: `slow`, `degrade` or `stop`.
        rate: images a second that a suspected account gets, for `slow`.
        sigma: deviation of the noise on its answers, for `degrade`.
        closeness: see `Watch`.
        secret: environment variable with the key of planes and noise, or None for a public key.

    Raises:
        ConfigError, CheckpointError: with what to change.
    """

    remembers = True

    def __init__(
        self, reference: str, threshold: float, patience: int, policy: str, rate: float, sigma: float,
        closeness: float, secret: str | None,
    ) -> None:  # fmt: skip
        if policy not in POLICIES:
            raise ConfigError(f"defense.guard.policy={policy} is none of {', '.join(POLICIES)}: choose one.")
        if threshold <= 0 or rate <= 0 or sigma < 0:
            raise ConfigError("defense.guard needs threshold > 0, rate > 0 and sigma >= 0: set them so.")
        if not Path(reference).is_file():
            raise CheckpointError(
                f"defense.guard.reference={reference} does not exist: write it by benchmarks/detection.py."
            )
        self.threshold, self.patience, self.policy, self.rate, self.sigma = threshold, patience, policy, rate, sigma
        self._secret, (kept, self._encoder) = Secret(secret), _read(reference)
        self.private = self._secret.hash + hashlib.blake2b(Path(reference).read_bytes(), digest_size=8).hexdigest()
        window = int(kept["sizes"].max())
        self.watch = Watch(kept["mean"], kept["whiten"], closeness, window, self._secret)
        self._honest = standard(kept["sizes"].numpy(), kept["centre"].numpy(), kept["spread"].numpy())
        self._scores: dict[str, float] = {}

    def check(self, encoder: str) -> None:
        """See `stealing.defenses.chain.Fitted`."""
        if encoder != self._encoder:
            raise ConfigError(
                f"defense.guard.reference is of encoder {self._encoder[:8]}, and this one is {encoder[:8]}: write one "
                "by benchmarks/detection.py --encoder."
            )

    def answer(self, features_BD: Tensor, asked: Asked) -> Tensor:
        """(B, D), as they are for an account that is not suspected.

        Raises:
            Refused: the account is stopped, or has to wait.
            ConfigError: they are not of the reference's width.
        """
        if features_BD.shape[1] != len(self.watch.mean_D):
            raise ConfigError(
                f"defense.guard.reference is of features of width {len(self.watch.mean_D)}, and these are of width "
                f"{features_BD.shape[1]}: put guard first."
            )
        known = self.watch.accounts.setdefault(asked.account, Watched())
        suspected = self._scores.get(asked.account, 0.0) >= self.threshold
        if suspected and self.policy == "stop":
            raise Refused("This account's questions look like the copying of the model: it gets no more answers.")
        if suspected and self.policy == "slow":
            if asked.seconds < known.free_at:
                wait = known.free_at - asked.seconds
                raise Refused(f"This account gets {self.rate:g} images a second: wait {wait:.1f} seconds.", wait)
            known.free_at = asked.seconds + len(features_BD) / self.rate
        signals, images = self.watch.see(asked.account, features_BD), self.watch.accounts[asked.account].images
        if images >= self.patience:
            self._scores[asked.account] = float(self._honest(images, signals).max())
        if suspected and self.policy == "degrade":
            rows: list[tuple[str | bytes | int, ...]] = [("guard", digest) for digest in asked.digests]
            return features_BD + self.sigma * self._secret.normal(rows, features_BD.shape[1])
        return features_BD

    def load(self, account: str, memory: bytes | None) -> None:
        """See `stealing.defenses.chain.Remembering`."""
        self.watch.accounts.pop(account, None)
        self.watch.coverage.load(account, None)
        self._scores.pop(account, None)
        if memory:
            kept = np.load(io.BytesIO(memory))
            numbers = kept["numbers"]
            recent = torch.from_numpy(kept["recent"])
            self.watch.accounts[account] = Watched(int(numbers[0]), numbers[1], int(numbers[2]), recent, numbers[3])
            self._scores[account] = float(numbers[4])
            self.watch.coverage.load(account, kept["coverage"].tobytes())

    def dump(self, account: str) -> bytes:
        """See `stealing.defenses.chain.Remembering`."""
        known, stream = self.watch.accounts[account], io.BytesIO()
        score = self._scores.get(account, 0.0)
        numbers = np.array([known.images, known.distance, known.near, known.free_at, score])
        seen = np.frombuffer(self.watch.coverage.dump(account), np.uint8)
        np.savez(stream, numbers=numbers, recent=known.recent_MR.numpy(), coverage=seen)
        return stream.getvalue()


def _read(path: str) -> tuple[dict[str, Tensor], str]:
    """A reference's tensors, and the fingerprint of its encoder."""
    try:
        with safe_open(path, "pt") as file:
            kept = {name: file.get_tensor(name) for name in ("mean", "whiten", "sizes", "centre", "spread")}
            encoder = (file.metadata() or {}).get("encoder")
    except SafetensorError as error:
        raise CheckpointError(
            f"defense.guard.reference={path} is no reference ({error}): write one by benchmarks/detection.py."
        ) from None
    if encoder is None:
        raise CheckpointError(
            f"defense.guard.reference={path} does not say of which encoder it is: write it again by "
            "benchmarks/detection.py."
        )
    return kept, encoder


def standard(
    sizes_K: NDArray[np.float64], centre_K3: NDArray[np.float64], spread_K3: NDArray[np.float64]
) -> Callable[[int, NDArray[np.float64]], NDArray[np.float64]]:
    """How many honest deviations the signals (3,) after so many images lie above the honest mean.

    Args:
        sizes_K: numbers of images at which honest accounts were looked at; between them, log-linear.
        centre_K3: mean of the signals over honest accounts.
        spread_K3: their deviation.
    """

    def above(images: int, signals_3: NDArray[np.float64]) -> NDArray[np.float64]:
        size = np.log(max(images, 1))
        centre, spread = (
            np.array([np.interp(size, np.log(sizes_K), column) for column in table.T])
            for table in (centre_K3, spread_K3)
        )
        score: NDArray[np.float64] = (signals_3 - centre) / spread
        return score

    return above
