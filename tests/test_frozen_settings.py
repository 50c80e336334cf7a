"""Settings that a stored measurement chose are those of the measurement."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from conftest import ROOT, choose

from stealing.config import to_dict

sys.path.insert(0, str(ROOT / "benchmarks"))
import attack_tuning
import best_tuning
from control_tuning import STAGES

TRIALS = 16
"""Trials that the settings of attack=stolen_encoder are the best of."""


@pytest.fixture(scope="module")
def tuned() -> dict[str, Any]:
    stored = ROOT / "results" / "control_tuning" / "result.json"
    result: dict[str, Any] = json.loads(stored.read_text())
    return result


def test_the_control_is_the_best_of_as_many_trials_as_the_attack_had(
    tuned: dict[str, Any],
) -> None:
    trials = tuned["trials"]
    assert len(trials) == sum(len(stage) for stage in STAGES) == TRIALS
    chosen = list[str]()
    highest = -1.0
    for number in range(1, len(STAGES) + 1):
        stage = [trial for trial in trials if trial["stage"] == number]
        for trial in stage:
            assert trial["mean"] == pytest.approx(fmean(trial["accuracy"].values()))
        best = max(stage, key=lambda trial: trial["mean"])
        # the best of its stage is chosen, if it is better than all before
        assert [trial for trial in stage if trial["chosen"]] == [best] * (best["mean"] > highest)
        if best["chosen"]:
            chosen += best["overrides"]
            highest = best["mean"]
    assert (chosen, highest) == (tuned["chosen"], tuned["mean"])


def test_the_trials_that_are_stored_are_those_of_the_command(tuned: dict[str, Any]) -> None:
    tried = [list(trial["overrides"]) for trial in tuned["trials"]]
    named = [overrides for stage in STAGES for overrides in stage]
    # the file of then had settings of its optimizer that `~` took out
    assert [[part for part in each if part[0] != "~"] for each in tried] == named


def test_the_control_has_the_settings_of_the_best_trial(tuned: dict[str, Any]) -> None:
    control = to_dict(choose().control)
    overrides = [part for part in tuned["chosen"] if part[0] != "~"]
    assert to_dict(choose(*overrides).control) == control
    for removed in (part for part in tuned["chosen"] if part[0] == "~"):
        assert removed.rpartition(".")[2] not in control["optimizer"]
    # what no trial made better, and what none tried, is that of the recipe where the search began
    recipe = to_dict(choose("pretrain=simclr").pretrain)
    searched = {part.lstrip("+~").split("=")[0].split(".")[1] for part in tuned["chosen"]}
    for name in control.keys() - searched:
        assert control[name] == recipe[name], name


def test_the_best_attack_is_a_contrast_and_a_distance_with_raw_images_in_the_second_half() -> None:
    best, plain = to_dict(choose("attack=best")), to_dict(choose("attack=stolen_encoder"))
    pairing = best["attack"].pop("pairing")
    assert pairing["_target_"].endswith("ViewsThenRaw") and pairing["share"] == 0.5
    assert pairing["views"] == plain["attack"].pop("pairing")["views"]
    loss, contrast = best["attack"].pop("loss"), to_dict(choose("attack=infonce").attack)["loss"]
    assert loss.pop("_target_").endswith("infonce_and_distance") and loss.pop("distance_weight") > 0
    assert contrast.pop("_target_").endswith("infonce") and loss == contrast
    plain["attack"].pop("loss")
    optimizer, plain_optimizer = best["attack"].pop("optimizer"), plain["attack"].pop("optimizer")
    assert optimizer.keys() == plain_optimizer.keys()
    assert optimizer["_target_"] == plain_optimizer["_target_"]
    # the comparison at equal compute
    assert best["attack"] == plain["attack"]
    assert (best["arch"], best["control"]) == (plain["arch"], plain["control"])


def test_the_best_attack_has_the_settings_of_the_best_trial_of_its_code_and_its_budget() -> None:
    trials = best_tuning.stored(best_tuning.OUT)
    means = {name: trials[name]["mean"] for name in best_tuning.TRIALS if name in trials}
    assert max(means, key=means.__getitem__) == best_tuning.CHOSEN
    chosen = choose(*best_tuning.TRIALS[best_tuning.CHOSEN])
    assert to_dict(chosen.attack) == to_dict(choose("attack=best").attack)


def test_the_best_attack_of_much_compute_is_the_best_one_with_network_rate_and_length() -> None:
    wide, best = choose("attack=best_wide"), choose("attack=best")
    changed, settings = to_dict(wide.attack), to_dict(best.attack)
    assert (changed.pop("steps"), settings.pop("steps")) == (2400, 1200)
    # the decay of best was never tried with this network
    del settings["optimizer"]
    optimizer = to_dict(choose("attack=stolen_encoder").attack)["optimizer"]
    assert changed.pop("optimizer") == optimizer | {"lr": 6e-3}
    assert changed == settings
    assert wide.arch == choose("arch=wide").arch
    for words in (("attack=best_wide", "arch=narrow"), ("arch=narrow", "attack=best_wide")):
        assert choose(*words).arch == best.arch, "the command line has the last word"
    assert wide.target_arch == best.target_arch


@pytest.mark.parametrize("folder", [best_tuning.OUT, best_tuning.EARLIER], ids=lambda p: p.name)
def test_the_table_of_ideas_is_that_of_the_stored_trials(folder: Path) -> None:
    trials = best_tuning.stored(folder)
    for trial in trials.values():
        assert trial["mean"] == pytest.approx(fmean(trial["accuracy"].values()))
    text = (folder / "table.txt").read_text()
    assert text == best_tuning.table(trials) and len(text.splitlines()) == len(trials) + 2
    if folder == best_tuning.OUT:  # the earlier round had other trials
        for name, overrides in best_tuning.TRIALS.items():
            assert name not in trials or trials[name]["overrides"] == list(overrides)


def test_the_penalties_of_the_probe_are_half_decades() -> None:
    penalties = list(choose("probe=standard").probe.linear.penalties)
    assert len(penalties) >= 7
    for smaller, larger in pairwise(penalties):
        assert larger / smaller == pytest.approx(math.sqrt(10), rel=1e-3)


@pytest.mark.parametrize("attack", [path.stem for path in sorted(attack_tuning.OUT.glob("*.json"))])
def test_a_fair_attack_has_the_settings_of_the_best_of_its_trials(attack: str) -> None:
    stored = json.loads(attack_tuning.path_of(attack).read_text())
    tried = [tuple(trial["overrides"]) for trial in stored["trials"]]
    assert tried == [overrides for stage in attack_tuning.STAGES[attack] for overrides in stage]
    # two more of the rate and the decay, which plain regression had among its eight
    assert len(tried) == (10 if attack == "cont_steal" else 8)
    assert stored["mean"] == max(trial["mean"] for trial in stored["trials"])
    preset = to_dict(choose(f"attack={attack}").attack)
    found = choose(f"attack={attack}", *attack_tuning.start_of(attack), *stored["chosen"])
    assert to_dict(found.attack) == preset


def test_the_table_of_the_fair_attacks_is_that_of_their_trials() -> None:
    assert (attack_tuning.OUT / "table.txt").read_text() == attack_tuning.tables()
