"""The guard's laws, on drawn features: whom it suspects, what it does to them, and what it
remembers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, choose
from safetensors.torch import save_file
from test_defenses import asked, images
from torch import Tensor

from stealing.config import instantiate_node
from stealing.data.sampling import generator
from stealing.defenses.chain import Chain
from stealing.defenses.guard import Watch
from stealing.defenses.keyed import Secret
from stealing.encoders import load_encoder
from stealing.errors import CheckpointError, ConfigError, Refused
from stealing.numbers import GREATEST

D = 16
SIZES = (20, 100, 400)


def honest(count: int, seed: int = 0) -> Tensor:
    """One customer's images: around one place."""
    centre = torch.randn(D, generator=generator("centre", seed))
    return 1.5 * centre + torch.randn(count, D, generator=generator("honest", seed))


def broad(count: int) -> Tensor:
    return 5 * torch.randn(count, D, generator=generator("broad"))


def near(count: int) -> Tensor:
    rows = honest(count // 4, 1).repeat_interleave(4, 0)
    return rows + 0.001 * torch.randn(count, D, generator=generator("near"))


@pytest.fixture
def reference(tmp_path: Path) -> str:
    rows = torch.cat([honest(100, seed) for seed in range(20)])
    tables = []
    for seed in range(20):
        watch = Watch(rows.mean(0), torch.eye(D), 0.95, SIZES[-1], Secret(None))
        cuts = zip((0, *SIZES[:-1]), SIZES, strict=True)
        tables.append(np.stack([watch.see("x", honest(400, seed)[slice(*cut)]) for cut in cuts]))
    kept = {
        "mean": rows.mean(0),
        "whiten": torch.eye(D),
        "sizes": torch.tensor(SIZES, dtype=torch.float64),
    }
    kept |= {
        "centre": torch.from_numpy(np.mean(tables, 0)),
        "spread": torch.from_numpy(np.std(tables, 0) + 0.01),
    }
    save_file(kept, tmp_path / "honest.safetensors", {"encoder": "this encoder"})
    return str(tmp_path / "honest.safetensors")


def guard(reference: str, *overrides: str) -> Chain:
    settings = (
        f"defense.guard.reference={reference}",
        "defense.guard.patience=100",
        "defense.guard.threshold=4",
    )
    return Chain(instantiate_node(choose("defense=guard", *settings, *overrides).defense))


def changed(chain: Chain, rows: Tensor, account: str) -> bool:
    """Whether the last of its requests was answered with something else than the truth."""
    pictures = images(len(rows))
    for start in range(0, len(rows), 50):
        cut = slice(start, start + 50)
        answer = chain.answer(rows[cut], asked(pictures[cut], account))
    return not torch.equal(answer, rows[cut])


def test_broad_and_near_copying_accounts_are_suspected_and_customers_are_not(
    reference: str,
) -> None:
    chain = guard(reference)
    assert changed(chain, broad(400), "attacker/0") and changed(chain, near(400), "attacker/1")
    for seed in range(5):
        assert not changed(chain, honest(400, 100 + seed), f"honest/{seed}")
    assert not changed(chain, broad(100), "attacker/2"), "nobody is judged before so many images"


def test_a_customer_who_asks_for_longer_than_the_reference_is_looked_at_anew(
    reference: str,
) -> None:
    chain = guard(reference)
    assert not changed(
        chain, torch.cat([honest(400, 7), honest(400, 8), honest(250, 9)]), "honest/long"
    )
    assert changed(chain, torch.cat([honest(400, 7), broad(250)]), "attacker/0"), (
        "an attacker who waits is found as well"
    )
    assert changed(chain, torch.cat([broad(400), honest(50, 7)]), "attacker/1"), (
        "the last window's score stands"
    )


def test_what_is_remembered_is_all_that_matters(reference: str) -> None:
    rows, pictures, memory, parts = broad(300), images(300), None, []
    whole = guard(reference)
    for start in range(0, 300, 50):
        cut = slice(start, start + 50)
        part, memory = guard(reference).settle(rows[cut], asked(pictures[cut]), memory)
        parts.append(part)
        assert torch.equal(part, whole.answer(rows[cut], asked(pictures[cut])))
        whole.answer(
            honest(50, start), asked(pictures[cut], "honest/x")
        )  # another account does not mix in
    assert memory is not None and len(memory) < 40_000 and not torch.equal(torch.cat(parts), rows)


def test_a_stopped_account_gets_nothing_and_a_slowed_one_has_to_wait(reference: str) -> None:
    from dataclasses import replace

    stop = guard(reference, "defense.guard.policy=stop")
    slow = guard(reference, "defense.guard.policy=slow", "defense.guard.rate=1")
    with pytest.raises(Refused, match="It is stopped") as refused:
        changed(stop, broad(400), "attacker/0")
    assert refused.value.retry_after is None
    rows, question = broad(400), asked(images(50))
    for start in (0, 50):
        slow.answer(rows[start : start + 50], question)
    slow.answer(rows[100:150], question)  # the first as a suspect: then 50 images take 50 seconds
    with pytest.raises(Refused, match="wait") as waits:
        slow.answer(rows[150:200], replace(question, seconds=10.0))
    assert waits.value.retry_after == pytest.approx(40)
    assert torch.equal(slow.answer(rows[150:200], replace(question, seconds=50.0)), rows[150:200])


def test_an_attack_that_is_spread_thin_enough_is_never_judged(reference: str) -> None:
    chain = guard(reference)
    assert not any(
        changed(chain, broad(400)[start : start + 100], f"attacker/{start}")
        for start in range(0, 400, 100)
    )


@pytest.mark.parametrize("policy", ["degrade", "slow", "stop"])
def test_whatever_is_asked_answers_are_finite_and_a_lower_threshold_never_suspects_less(
    policy: str, reference: str
) -> None:
    pictures, suspected = images(400), []
    for threshold in (GREATEST, 4.0, 0.5):
        # Features of 1e30 score above any threshold that can be set.
        large = torch.full((50, D), 1e3 if threshold == GREATEST else 1e30)
        rows = torch.cat([broad(150), torch.zeros(50, D), large, torch.ones(150, D)])
        chain = guard(
            reference, f"defense.guard.policy={policy}", f"defense.guard.threshold={threshold}"
        )
        suspected.append(0)
        for start in range(0, 400, 50):
            cut = slice(start, start + 50)
            try:
                answer = chain.answer(rows[cut], asked(pictures[cut], "attacker/0"))
            except Refused:
                suspected[-1] += 1
                continue
            assert (
                answer.shape == (50, D)
                and answer.dtype == torch.float32
                and answer.isfinite().all()
            )
            suspected[-1] += not torch.equal(answer, rows[cut])
    assert suspected == sorted(suspected) and suspected[0] == 0 < suspected[-1], (
        "no effect at strength zero"
    )


def test_features_of_another_encoder_are_refused_in_one_sentence(reference: str) -> None:
    chain = guard(reference)
    chain.check("this encoder")
    with pytest.raises(
        ConfigError, match=r"of encoder this enc, and this one is another: write one by"
    ):
        chain.check("another")
    with pytest.raises(ConfigError, match=rf"width {D}, and these are of width 7: put guard first"):
        chain.answer(torch.zeros(3, 7), asked(images(3)))


def test_a_reference_that_is_absent_and_a_policy_that_is_none_are_one_sentence(
    reference: str,
) -> None:
    with pytest.raises(CheckpointError, match=r"reference=absent does not exist"):
        guard("absent")
    with pytest.raises(ConfigError, match="slow, degrade, stop"):
        guard(reference, "defense.guard.policy=shout")
    with pytest.raises(
        CheckpointError,
        match=r"encoder\.safetensors is not a reference \(.*tensor.*\): write",
    ):
        guard(str(ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors"))
    save_file(
        {name: torch.zeros(2) for name in ("mean", "whiten", "sizes", "centre", "spread")},
        reference,
    )
    with pytest.raises(CheckpointError, match=r"does not say of which encoder it is"):
        guard(reference)


def test_the_stored_targets_reference_is_read() -> None:
    chain = Chain(instantiate_node(choose("defense=guard").defense))
    chain.check(
        load_encoder(ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors")[0].fingerprint
    )
    features = torch.rand(300, 192, generator=generator("stored"))
    assert chain.answer(features, asked(images(300))).shape == features.shape
    assert (ROOT / "assets" / "cifar10_narrow" / "honest.safetensors").stat().st_size < 400_000
