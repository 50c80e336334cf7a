"""Heads side by side, as a GPU trains them: against heads alone, and how often they ask the device.

`DEVICES` has the GPU if there is one. A CPU takes the GPU's path if it is called "cpu:0".
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_heads import ARCH
from test_protocol import JOB, MLP, PROTOCOL, TASK
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.evaluation.controls import calibrated, untrained
from stealing.evaluation.features import BLOCK, encode
from stealing.evaluation.knn import knn_predict
from stealing.evaluation.lbfgs import HISTORY, PATIENCE, SideBySide
from stealing.evaluation.mlp import mlp_predict
from stealing.evaluation.probe import LinearProbe, ProbeSettings, probe_predict
from stealing.evaluation.probes import ProbeLosses, fit_probes, probes_predict
from stealing.evaluation.protocol import SIDE_BY_SIDE, Evaluator, HeadInput
from stealing.evaluation.rows import Rows

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CLASSES, WIDTH, TRAIN, TEST = 10, 40, 900, 1000
SETTINGS = ProbeSettings([1e-3, 1e-2, 1e-1], 1e-4, 1000)


def encoder_features(number: int, labels: Tensor) -> Tensor:
    """Correlated rectified features of very different sizes; those of a greater number say more."""
    rng = generator("side by side", number)
    means = torch.randn(CLASSES, WIDTH, generator=rng) * (0.3 + 0.15 * number)
    mixed = torch.randn(WIDTH, WIDTH, generator=rng) / WIDTH**0.5
    noise = torch.randn(len(labels), WIDTH, generator=generator(number, "noise", len(labels)))
    return ((means[labels] + noise) @ mixed).relu() * torch.logspace(-2, 2, WIDTH)


LABELS = torch.randint(0, CLASSES, (TRAIN,), generator=generator("train labels"))
TRUTH = torch.randint(0, CLASSES, (TEST,), generator=generator("test labels"))


def encoders(count: int, device: str = "cpu") -> tuple[list[Rows], list[Tensor]]:
    """Training rows and test features; the last encoder's are a bootstrap sample."""
    rows, tests = [], []
    for number in range(count):
        sample = 1 if number == count - 1 else None
        features = encoder_features(number, LABELS)
        rows.append(Rows.split(features, LABELS, 0.2, sample).to(device))
        tests.append(encoder_features(number, TRUTH).to(device))
    return rows, tests


def stacked(rows: list[Rows], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    scaled = [one.scaled(one.features.mean(0), one.features.std(0) + 1e-6) for one in rows]
    return (
        torch.stack([one.features for one in scaled]).to(dtype),
        torch.stack([one.labels for one in scaled]),
    )


def start(count: int, device: str = "cpu") -> Tensor:
    return torch.zeros(count, (WIDTH + 1) * CLASSES, device=device)


def test_losses_and_gradients_are_those_of_the_probe_alone() -> None:
    features, labels = stacked(encoders(3)[0])
    penalties = torch.tensor([1e-3, 0.1, 0.5])
    point = 0.1 * torch.randn(start(3).shape, generator=generator("point"))
    losses, gradients = ProbeLosses(features, labels, penalties, CLASSES)(point)
    for number in range(3):
        probe = LinearProbe(WIDTH, CLASSES, SETTINGS)
        weight = point[number, :-CLASSES].view(WIDTH, CLASSES).T
        probe.load_state_dict({"weight": weight, "bias": point[number, -CLASSES:]})
        probe.penalty = float(penalties[number])
        loss = probe.training_step((features[number], labels[number]), 0)
        loss.backward()
        assert float(losses[number]) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert probe.weight.grad is not None and probe.bias.grad is not None
        expected = torch.cat([probe.weight.grad.T.flatten(), probe.bias.grad])
        torch.testing.assert_close(gradients[number], expected, atol=1e-5, rtol=1e-4)


def two_loops(moves: Tensor, changes: Tensor, vector: Tensor) -> Tensor:
    """The usual recursion (Nocedal and Wright 2006, algorithm 7.4); the newest step is the last."""
    result, factors = vector.clone(), []
    for move, change in zip(moves.flip(0), changes.flip(0), strict=True):
        factors.append(move @ result / (move @ change))
        result = result - factors[-1] * change
    result = result * (moves[-1] @ changes[-1]) / changes[-1].square().sum()
    for move, change, factor in zip(moves, changes, reversed(factors), strict=True):
        result = result + move * (factor - change @ result / (move @ change))
    return result


@pytest.mark.parametrize("steps", [1, 7, HISTORY, HISTORY + 9])
def test_directions_are_those_of_the_usual_two_loops(steps: int) -> None:
    features, labels = stacked(encoders(2)[0], torch.float64)
    losses = ProbeLosses(features, labels, torch.full((2,), 1e-2), CLASSES)
    solver = SideBySide(losses, start(2).double(), 1e-12, 1000)
    while int(solver.steps_E.min()) < steps:
        solver._evaluate()
    known = [min(int(count), HISTORY) for count in solver.steps_E]
    for number in range(2):
        expected = two_loops(
            solver.moves_EHP[number, -known[number] :],
            solver.changes_EHP[number, -known[number] :],
            solver.gradient_EP[number],
        )
        found = solver._inverse_hessian_times(solver.gradient_EP)[number]
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("penalty", [1e-4, 1e-2])
def test_each_problem_ends_at_its_own_minimum(device: str, penalty: float) -> None:
    rows = encoders(4, device)[0]
    features, labels = stacked(rows)
    penalties = torch.tensor([penalty, 10 * penalty, penalty, penalty], device=device)
    found = fit_probes(features, labels, start(4, device), penalties, CLASSES, SETTINGS)
    for number in range(4):
        probe = LinearProbe(WIDTH, CLASSES, replace(SETTINGS, tolerance=1e-6))
        train = (features[number], labels[number])
        probe.fit(train, float(penalties[number]))
        exact = torch.cat([probe.weight.detach().T.flatten(), probe.bias.detach()])
        weight = found[number, :-CLASSES].view(WIDTH, CLASSES).T
        probe.load_state_dict({"weight": weight, "bias": found[number, -CLASSES:]})
        assert probe.gradient(train) <= 1.05 * SETTINGS.tolerance
        # Of a loss whose curvature is at least the penalty, an end is this near to the minimum.
        norm = SETTINGS.tolerance * start(1).shape[1] ** 0.5
        assert float((found[number] - exact)[:-CLASSES].norm()) <= 1.1 * norm / penalty


@pytest.mark.parametrize("device", DEVICES)
def test_probes_side_by_side_predict_as_probes_alone(device: str) -> None:
    rows, tests = encoders(4, device)
    found = probes_predict(rows, tests, CLASSES, SETTINGS)
    alone_rows, alone_tests = encoders(4)
    accuracies = []
    for number, (held, test) in enumerate(found):
        alone_held, alone = probe_predict(
            alone_rows[number], alone_tests[number], CLASSES, SETTINGS
        )
        assert held.shape == alone_held.shape and held.dtype == torch.int64
        assert (held.cpu() == alone_held).float().mean() >= 0.99
        assert (test.cpu() == alone).float().mean() >= 0.99
        accuracies.append(float((test.cpu() == TRUTH).float().mean()))
        assert accuracies[-1] == pytest.approx(float((alone == TRUTH).float().mean()), abs=0.002)
    assert accuracies == sorted(accuracies) or accuracies[2] > accuracies[0]
    assert accuracies[0] > 2 / CLASSES, "it has learned"


def test_a_problem_that_float32_cannot_solve_is_solved_in_float64_and_no_other_one() -> None:
    features, labels = stacked(encoders(2)[0])
    hard = replace(SETTINGS, tolerance=2e-8)
    penalties = torch.full((2,), 1e-2)
    found = fit_probes(features, labels, start(2), penalties, CLASSES, hard)
    exact = ProbeLosses(features.double(), labels, penalties, CLASSES)(found.double())[1]
    assert float(exact.abs().max()) < 2e-7, "rounded to float32 after float64 has ended"
    easy = torch.tensor([30.0, 1e-2])  # the first problem converges in float32 already
    both = fit_probes(features, labels, start(2), easy, CLASSES, hard)
    twice = torch.stack([features[0], features[0]]), torch.stack([labels[0], labels[0]])
    alone = fit_probes(*twice, start(2), torch.full((2,), 30.0), CLASSES, hard)
    assert torch.equal(both[0], alone[0])


def test_problems_that_have_not_converged_are_warned_about_and_others_are_not() -> None:
    features, labels = stacked(encoders(2)[0])
    penalties = torch.tensor([1e-3, 1e-2])
    solved = fit_probes(features, labels, start(2), penalties, CLASSES, SETTINGS)
    solved[0] = 0
    few = replace(SETTINGS, iterations=3)
    with pytest.warns(UserWarning, match="raise probe.linear.iterations") as caught:
        fit_probes(features, labels, solved, penalties, CLASSES, few)
    assert len(caught) == 1 and "penalty 0.001" in str(caught[0].message)


def test_a_step_that_overflows_is_shortened() -> None:
    def steep(point_EP: Tensor) -> tuple[Tensor, Tensor]:
        grown = (point_EP - 200).exp()
        return (grown - point_EP).sum(1), grown - 1

    solver = SideBySide(steep, torch.tensor([[-1e4, 0.0], [0.0, 150.0]]), 1e-3, 500)
    torch.testing.assert_close(solver.minimise(), torch.full((2, 2), 200.0), atol=1e-2, rtol=0)


class Counter(TorchDispatchMode):
    """Counts operations, and those that wait for a GPU: a number or a size goes to Python."""

    WAITS = ("_local_scalar_dense", "nonzero", "_to_copy.cpu")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operations += not func.is_view
        self.waits += name in self.WAITS
        return func(*args, **(kwargs or {}))


def counted(count: int) -> tuple[Counter, int]:
    """Operations of a fit of probes side by side, and the number of evaluations."""
    features, labels = stacked(encoders(count)[0])
    losses = ProbeLosses(features, labels, torch.full((count,), 1e-3), CLASSES)
    evaluations = [0]

    def noted(point_EP: Tensor) -> tuple[Tensor, Tensor]:
        evaluations[0] += 1
        return losses(point_EP)

    with Counter() as counter:
        SideBySide(noted, start(count), 1e-4, 1000).minimise()
    return counter, evaluations[0]


def test_an_evaluation_is_few_operations_and_the_device_is_asked_once_in_many() -> None:
    one, evaluations_of_one = counted(1)
    four, evaluations_of_four = counted(4)
    assert one.waits <= evaluations_of_one / PATIENCE + 2
    assert four.waits <= evaluations_of_four / PATIENCE + 2
    assert one.operations / evaluations_of_one < 130
    assert four.operations / evaluations_of_four < 130, "for four it is one product, too"


def test_a_gpu_gets_equal_predictions_for_equal_jobs_whatever_is_trained_beside(
    tmp_path: Path,
) -> None:
    """Jobs of two widths, more than fit side by side; "cpu:0" stands for the GPU."""
    jobs = {"wide": HeadInput("wide", JOB.train_ND.repeat(1, 2), JOB.test_MD.repeat(1, 2))}
    for number in range(SIDE_BY_SIDE + 1):
        jobs[str(number)] = replace(JOB, identity=str(number), sample=number or None)
    together = Evaluator(PROTOCOL, tmp_path / "together", "cpu:0").predictions(TASK, jobs)
    alone = Evaluator(PROTOCOL, tmp_path / "alone", "cpu:0")
    usual = Evaluator(PROTOCOL, tmp_path / "usual")
    for name, job in jobs.items():
        for head, found in alone.predictions(TASK, {name: job})[name].items():
            assert (found.test == together[name][head].test).all(), (name, head)
            assert (found.held == together[name][head].held).all(), (name, head)
            on_cpu = usual.predictions(TASK, {name: job})[name][head]
            assert (found.test == on_cpu.test).mean() > 0.9
    assert len(list((tmp_path / "together" / "predictions").glob("*.safetensors"))) == 3 * len(jobs)


@gpu
def test_features_on_a_gpu_do_not_depend_on_the_batches_and_are_those_of_the_cpu() -> None:
    pixels = torch.randint(0, 256, (2 * BLOCK + 9, 3, 16, 16), dtype=torch.uint8)
    encoder = untrained(ARCH, 0)
    on_cpu = encode(encoder, pixels)
    whole = encode(encoder.to("cuda"), pixels)
    parts = [encode(encoder, part) for part in torch.split(pixels, 7)]
    assert whole.device.type == "cpu" and torch.equal(whole, torch.cat(parts))
    torch.testing.assert_close(whole, on_cpu, atol=5e-3, rtol=5e-3)


@gpu
def test_calibration_on_a_gpu_is_that_on_the_cpu() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)
    images = Images("x", pixels, None, 0, np.arange(64), "sum")
    on_gpu = calibrated(untrained(ARCH, 0).to("cuda"), images, 32).cpu().state_dict()
    for name, expected in calibrated(untrained(ARCH, 0), images, 32).state_dict().items():
        torch.testing.assert_close(on_gpu[name], expected, atol=1e-2, rtol=1e-2)


@gpu
def test_neighbours_and_mlp_heads_on_a_gpu_predict_as_on_the_cpu() -> None:
    pairs = []
    for device in DEVICES:
        rows, tests = encoders(3, device)
        knn = [
            knn_predict(*one.all, test, classes=CLASSES, k=20, temperature=0.1)
            for one, test in zip(rows, tests, strict=True)
        ]
        settings = replace(MLP, hidden=[64, 32], epochs=40, lr=1e-3)
        mlp = mlp_predict([one.all for one in rows], tests, CLASSES, settings)
        assert {found.device.type for found in knn + mlp} == {device}
        pairs.append((torch.stack(knn).cpu(), torch.stack(mlp).cpu()))
    for on_cpu, on_gpu in zip(*pairs, strict=True):
        right = [(found == TRUTH).float().mean(1) for found in (on_cpu, on_gpu)]
        torch.testing.assert_close(right[0], right[1], atol=0.002, rtol=0)


def test_the_benchmark_of_judging_runs_through_all_parts() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from judging import NETWORKS, judge

    quick = replace(PROTOCOL, linear=ProbeSettings([1e-2], 1e-2, 100), resamples=10)
    seconds, accuracies = judge(ARCH, quick, "cpu", 500)
    parts = {"calibration", "features", "pixels", "linear", "knn", "mlp", "intervals"}
    assert set(seconds) == parts and all(spent > 0 for spent in seconds.values())
    assert len(accuracies) == 3 * 3 * (len(NETWORKS) + 1)
