"""What may stand in one table: made-up runs that differ in each way in which two can differ."""

import json
import re
from pathlib import Path
from statistics import stdev

import pytest
from conftest import run_script
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from made_up import finished_run as run
from omegaconf import OmegaConf

from stealing.errors import DataError
from stealing.evaluation.statistics import overall
from stealing.report.advice import advice
from stealing.report.comparisons import comparisons
from stealing.report.figures import defended
from stealing.report.picture import COLOURS, DARK, DARK_PAPER, Figure, style, svg
from stealing.report.runs import group_runs
from stealing.report.summary import by_task, overview, tidy
from stealing.report.wording import verdict_sections
from stealing.report.words import Meaning, meaning, plain_names
from stealing.report.write import write
from stealing.settings.options import CONF


def test_shares_of_run_groups_that_are_compared_are_of_the_same_tasks(tmp_path: Path) -> None:
    first = run(tmp_path, "g1", {"a": (0.6, 0.5, 0.3), "b": (0.3, 0.22, 0.19)})
    second = run(tmp_path, "g2", {"a": (0.6, 0.5, 0.3), "b": (0.3, 0.22, 0.21)}, defense="topk")
    blind = run(tmp_path, "g3", {"a": (0.6, 0.5, 0.55), "b": (0.3, 0.22, 0.29)}, defense="noise")
    [alone] = group_runs([first])
    assert alone.overall("linear")["informative"] == ["a", "b"]
    rows = {
        one.choices["defense"]: one.overall("linear") for one in group_runs([first, second, blind])
    }
    assert (
        rows["none"]["informative"] == rows["topk"]["informative"] == ["a"]
        and rows["noise"]["recovered"] is None
    )
    assert (
        rows["none"]["recovered"]
        == pytest.approx(rows["topk"]["recovered"])
        == pytest.approx(2 / 3)
    )


def test_a_plan_that_asks_about_fewer_images_is_measured_against_the_controls_of_one_with_more(
    tmp_path: Path,
) -> None:
    plain = run(tmp_path, "g1", {"a": (0.6, 0.5, 0.3)})
    fewer = run(tmp_path, "g2", {"a": (0.6, 0.4, 0.2)}, plan="averaging", asked=25)
    [alone] = group_runs([fewer])
    assert alone.overall("linear")["recovered"] == pytest.approx(0.5)
    found = {one.choices["plan"]: one for one in group_runs([plain, fewer])}
    held = found["averaging"]
    row = held.overall("linear")
    assert row["recovered"] == pytest.approx(1 / 3) and row["intervals"]["recovered"][1] < 0.5
    told = by_task([held], "linear").rows[0]
    assert (
        "0.300 untrained +0.000" in told
        and told[-1].startswith("0.33 [")
        and tidy([held])["recovered"][0].as_py() < 0.34
    )
    assert found["once"].overall("linear")["recovered"] == pytest.approx(2 / 3)
    points, _ = defended(
        [
            *found.values(),
            *group_runs([run(tmp_path, "g3", {"a": (0.6, 0.4, 0.3)}, defense="topk")]),
        ],
        "linear",
    )
    assert points[0].attacks == pytest.approx({"x, once": 2 / 3, "x, averaging": 1 / 3}), (
        "the picture's is the table's"
    )


def test_controls_are_shared_by_attacks_of_one_attack_and_where_every_seed_has_its_own(
    tmp_path: Path,
) -> None:
    def shares(*folders: Path) -> dict[str, float]:
        return {
            f"{one.choices['attack']} {one.choices['plan']}": one.overall("linear")["recovered"]
            for one in group_runs(folders)
        }

    plain = run(tmp_path, "g1", {"a": (0.6, 0.5, 0.3)})
    longer = run(tmp_path, "g2", {"a": (0.6, 0.5, 0.4)}, attack="longer")
    fewer = [
        run(tmp_path, "g3", {"a": (0.6, 0.4, 0.2)}, plan="averaging", asked=25, seed=seed)
        for seed in (0, 1)
    ]
    expected = {"x once": 2 / 3, "longer once": 1 / 2, "x averaging": 1 / 3}
    for folders in ([plain, longer, fewer[0]], [fewer[0], longer, plain]):
        assert shares(*folders) == pytest.approx(expected)
    assert shares(plain, *fewer)["x averaging"] == pytest.approx(1 / 2), (
        "its own, or its seeds would be of two kinds"
    )


def test_attacks_that_no_common_task_tells_of_are_not_called_hopeless(tmp_path: Path) -> None:
    first = run(tmp_path, "g1", {"a": (0.6, 0.5, 0.3), "b": (0.6, 0.5, 0.55)})
    second = run(tmp_path, "g2", {"a": (0.6, 0.5, 0.55), "b": (0.6, 0.5, 0.3)}, attack="y")
    verdict = verdict_sections(advice(group_runs([first, second]), "linear", 0.5))
    about, text = next(iter(verdict.items()))
    assert (
        about == "Not decided."
        and "at least 10 points ahead of the strongest control for each of these" in text
    )
    assert "b: the target is 5.0 points ahead of" in text, "and the reason is given"


def test_runs_on_other_images_are_named_apart_and_never_compared(tmp_path: Path) -> None:
    tasks = {"a": (0.6, 0.5, 0.3)}
    here = run(tmp_path, "g1", tasks)
    defended = run(tmp_path, "g2", {"a": (0.6, 0.4, 0.3)}, defense="topk")
    elsewhere = run(tmp_path, "g3", tasks, images="two")
    [test] = comparisons(group_runs([here, defended]), "linear")
    assert (test.first, test.second, test.both) == (
        "none",
        "topk",
        "",
    ) and test.difference == pytest.approx(0.1)
    assert comparisons(group_runs([elsewhere, defended]), "linear") == []
    names = {one.name for one in group_runs([here, elsewhere])}
    assert len(names) == 2 and all("checksum=" in name for name in names)
    assert overview(group_runs([here, elsewhere]), "linear").best == set(), (
        "no best of attacks with different images"
    )


def test_two_encoders_that_lay_at_one_place_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    tasks = {"a": (0.6, 0.5, 0.3)}
    found = group_runs(
        [run(tmp_path, "g1", tasks, target="a" * 16), run(tmp_path, "g2", tasks, target="b" * 16)]
    )
    assert [one.name for one in found] == ["t fingerprint=aaaaaaaa", "t fingerprint=bbbbbbbb"]
    assert comparisons(found, "linear") == []


def test_each_of_several_tests_is_adjusted_for_all_of_them(tmp_path: Path) -> None:
    folders = []
    for number, (sa, defense) in enumerate([(0.5, "none"), (0.52, "b"), (0.53, "c")]):
        folders.append(run(tmp_path, f"g{number}", {"a": (0.6, sa, 0.3)}, defense=defense))
    found = comparisons(group_runs(folders), "linear")
    small, middle, large = sorted(found, key=lambda test: test.p)
    assert 0 < small.p < middle.p < large.p < 0.05, "so that no bound at 1 hides a factor"
    assert small.adjusted == pytest.approx(3 * small.p) and middle.adjusted == pytest.approx(
        2 * middle.p
    )
    assert large.adjusted == pytest.approx(max(large.p, 2 * middle.p)), (
        "and none is below a smaller one's"
    )


def test_a_report_takes_away_the_pictures_of_an_earlier_one_and_nothing_else(
    tmp_path: Path,
) -> None:
    folder, out = run(tmp_path / "runs", "g1", {"a": (0.6, 0.5, 0.3)}), tmp_path / "out"
    out.mkdir()
    (out / "figure-9.svg").write_text("of somebody else")
    write([folder], out, "linear")
    assert {path.name for path in out.glob("*.svg")} == {
        "figure-0.svg",
        "figure-1.svg",
        "figure-9.svg",
    }
    page = (out / "index.html").read_text()
    (out / "index.html").write_text(page + '<section id="figure-2">')
    (out / "figure-2.svg").write_text("of an earlier report")
    write([folder], out, "linear")
    assert {path.name for path in out.glob("*.svg")} == {
        "figure-0.svg",
        "figure-1.svg",
        "figure-9.svg",
    }


def test_runs_of_other_protocols_or_an_earlier_version_are_refused_with_what_differs(
    tmp_path: Path,
) -> None:
    tasks = {"a": (0.6, 0.5, 0.3)}
    here, other = run(tmp_path, "g1", tasks), run(tmp_path, "g2", tasks, protocol="q", neighbours=5)
    with pytest.raises(DataError, match=r"2 protocols .* differ in neighbours=20 neighbours=5\)"):
        group_runs([here, other])
    old = json.loads((here / "result.json").read_text())
    del old["overall"]
    (here / "result.json").write_text(json.dumps(old))
    with pytest.raises(
        DataError, match=r"earlier version: judge it again by python eval\.py run=.* leave it out"
    ):
        group_runs([here])


def test_of_several_protocols_one_can_be_chosen(tmp_path: Path) -> None:
    tasks = {"a": (0.6, 0.5, 0.3)}
    here, other = run(tmp_path, "g1", tasks), run(tmp_path, "g2", tasks, protocol="q")
    assert [[run.folder for run in one.runs] for one in group_runs([here, other], "q")] == [[other]]
    with pytest.raises(DataError, match="--protocol x judged none"):
        group_runs([here, other], "x")


def test_two_run_groups_that_no_table_could_tell_apart_are_refused(tmp_path: Path) -> None:
    tasks = {"a": (0.6, 0.5, 0.3)}
    with pytest.raises(DataError, match=r"g1 and .*g2 differ only in prices.*name one of them"):
        group_runs([run(tmp_path, "g1", tasks), run(tmp_path, "g2", tasks)])


def test_a_deviation_over_seeds_is_of_the_same_tasks_as_the_mean(tmp_path: Path) -> None:
    first = run(tmp_path, "g", {"a": (0.6, 0.5, 0.3), "b": (0.35, 0.22, 0.21)})
    second = run(tmp_path, "g", {"a": (0.6, 0.5, 0.3), "b": (0.29, 0.22, 0.21)}, seed=1)
    told = [
        json.loads((folder / "result.json").read_text())["overall"]["linear"]
        for folder in (first, second)
    ]
    assert [one["informative"] for one in told] == [["a", "b"], ["a"]], (
        "alone, each is of other tasks"
    )
    [setting] = group_runs([first, second])
    each = [
        overall([run.right], dict.fromkeys("ab", "own"), 2, tasks={"linear": ["a", "b"]})["linear"][
            "recovered"
        ]
        for run in setting.runs
    ]
    [row] = overview([setting], "linear").rows
    assert f"± {stdev(each):.2f} [" in row[-1] and setting.overall("linear")["informative"] == [
        "a",
        "b",
    ]


def test_each_task_has_its_row_with_the_papers_ratio_and_the_best_sa_in_bold(
    tmp_path: Path,
) -> None:
    weak = [run(tmp_path, "g1", {"a": (0.6, 0.45, 0.3)}, seed=seed) for seed in (0, 1)]
    strong = [run(tmp_path, "g2", {"a": (0.6, 0.5, 0.3)}, attack="y", seed=seed) for seed in (0, 1)]
    sheet = by_task(group_runs([*weak, *strong]), "linear")
    ratio, name = sheet.columns.index("SA/TA"), sheet.columns.index("attack")
    assert [(row[name], row[ratio]) for row in sheet.rows] == [("x", "0.75"), ("y", "0.83")]
    assert sheet.best == {(1, sheet.columns.index("SA"))} and r"\textbf{0.500" in sheet.latex()


def test_every_choice_says_what_it_means_in_its_first_line() -> None:
    for group in ("attack", "defense", "plan"):
        for path in (CONF / group).glob("*.yaml"):
            words = meaning(group, path.stem)
            assert words.name != path.stem, f"{path} begins with no name: # Name: sentence."
            assert re.fullmatch(r"[A-Z].*\.", words.sentence), f"{path} begins with no sentence"
            assert "=" not in words.sentence and len(words.name) <= 40


def test_a_choice_of_a_users_own_shows_its_own_first_line_or_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "defense"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\n# Coin: half of all answers are zero.\n"
    )
    (folder / "other.yaml").write_text("# Answers are sorted\nx: 1\n")
    (folder / "silent.yaml").write_text("x: 1\n# not the first\n")
    assert meaning("defense", "mine k=3") == Meaning("Coin", "Half of all answers are zero.")
    assert meaning("defense", "other") == Meaning("other", "Answers are sorted")
    assert meaning("defense", "silent") == Meaning("silent")
    assert meaning("defense", "unheard-of") == Meaning("unheard-of")
    assert meaning("defense", "mine+topk").name == "Coin + Top-k"
    names = plain_names("defense", ["topk k=4", "topk k=64", "mine", "topk k=4"])
    assert names["topk k=4"] == "Top-k, strength 1" and names["mine"] == "Coin"
    assert names["topk k=64"] == "Top-k, strength 2" and len(names) == 3


def test_a_choice_is_found_in_the_folders_that_the_command_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "defense").mkdir()
    (tmp_path / "defense" / "mine.yaml").write_text("# Coin: half of all answers are zero.\n")
    found = [f"hydra.searchpath=[file://{tmp_path}]", "target=zoo"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("audit", overrides=found, return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": config.hydra}))
    assert meaning("defense", "mine").name == "Coin" and meaning("plan", "once").sentence


def test_commands_look_where_the_work_folder_was_moved_to(tmp_path: Path) -> None:
    done = run_script(tmp_path / "elsewhere", "-m", "stealing.report")
    assert (
        done.returncode == 1
        and f"{tmp_path / 'elsewhere' / 'runs'} holds no judged run" in done.stderr
    )


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_stands_out_from_the_page_and_no_two_lines_look_alike() -> None:
    assert all(contrast(colour, "#ffffff") >= 3 for colour in COLOURS)  # WCAG 2.2, 1.4.11
    assert len({tuple(style(number).values()) for number in range(40)}) == 40


def test_every_colour_stands_out_from_a_dark_page_too() -> None:
    assert all(contrast(DARK.get(colour, colour), DARK_PAPER) >= 3 for colour in COLOURS)
    figure = Figure()
    figure.subplots().axhline(0, color="black")
    text = svg(figure, "line").decode()
    assert "prefers-color-scheme: dark" in text
    for colour in ("#ffffff", "#000000"):
        assert f": {colour}" in text.split("</style>")[1], "the rule has something to change"
