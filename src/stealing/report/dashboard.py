"""Weights & Biases: the curves of a report as charts of a run, and a workspace that compares runs, made by code.

python -m stealing.report.dashboard work/runs                   charts of these runs, offline where nobody is logged in
python -m stealing.report.dashboard work/runs --entity me       the workspace too, saved for this user or team
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb

from stealing.artefacts import WORK, write_whole
from stealing.errors import ConfigError, DataError, StealingError
from stealing.report.figures import defended, measure
from stealing.report.runs import VARIED, Setting, check_head, found_in, settings
from stealing.report.shares import pooled_over
from stealing.report.summary import overview, tidy
from stealing.training.wandb import mode

COLUMNS = (
    ("choices", "data"),
    ("choices", "target"),
    ("choices", "attack"),
    ("choices", "defense"),
    ("choices", "plan"),
    ("budget", "images"),
    ("target", "seed"),
)
"""Settings that the table of runs shows, by their group in wandb's `config`."""


def charts(found: Sequence[Setting], head: str) -> dict[str, Any]:
    """The tables of a report, and its curves over budgets and defenses, as wandb's own objects."""
    table, rows = overview(found, head), tidy(found).to_pylist()
    made: dict[str, Any] = {
        "report/settings": wandb.Table(columns=list(table.columns), data=table.rows),
        "report/runs": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows]),
    }
    lines, figure = dict[str, list[tuple[float, float]]](), measure(found, head)
    for setting in found:
        name = ", ".join(setting.choices[choice] for choice in VARIED)
        stolen = setting.overall(head)[figure]
        lines.setdefault(name, []).append((float(setting.joined["queries"]["spent"]), stolen))
    across = [[x for x, _ in sorted(line)] for line in lines.values()]
    up = [[y for _, y in sorted(line)] for line in lines.values()]
    told = figure if figure == "SA" else f"{figure}, {pooled_over(found, head)},"
    title = f"{told} against queries"
    made["report/budgets"] = wandb.plot.line_series(across, up, list(lines), title=title, xname="queries")
    with suppress(DataError):  # no defense to compare, or no task that could tell
        points, chosen = defended(found, head)
        columns = ["defense", "honest loss, points", f"recovered, {pooled_over(chosen, head)}"]
        data = [[point.name, 100 * point.loss, point.recovered] for point in points]
        plane = wandb.Table(columns=[*columns], data=data)
        made["report/frontier"] = wandb.plot.scatter(plane, columns[1], columns[2], title="the frontier of defenses")
    return made


def about(found: Sequence[Setting], head: str) -> dict[str, Any]:
    """Return the classifier of a report's figures and its cells, named as in their `config.cell`."""
    cells = [run.folder.name for setting in found for run in setting.runs]
    return {"head": head, "cells": cells}


def record(
    made: dict[str, Any],
    project: str,
    folder: Path,
    entity: str | None,
    config: dict[str, Any],
) -> Path:
    """Log the charts as a run of the type `report`; it belongs to no cell, so it has no group.

    Args:
        made: of `charts`.
        project: wandb's project.
        folder: of the run's files.
        entity: wandb user or team; None for the user who is logged in.
        config: of `about`.

    Returns:
        Where the run's files lie.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project,
        entity=entity,
        name=f"report {config['head']} {len(config['cells'])} cells",
        job_type="report",
        config=config,
        dir=folder,
        mode=mode(),  # type: ignore[arg-type]
        settings=wandb.Settings(init_timeout=15, silent=True),
    )
    run.log(made)
    place = Path(run.dir).parent
    run.finish()
    return place


def workspace(found: Sequence[Setting], made: dict[str, Any], entity: str, project: str) -> Any:
    """A workspace with the metrics that all runs log under the same names, and the charts of a report.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError:
        raise ConfigError("A workspace needs wandb-workspaces: pip install -e '.[dashboard]'.") from None
    tasks = list(dict.fromkeys(task for setting in found for task in setting.joined["tasks"]))

    def bars(name: str) -> list[Any]:
        return [
            panels.BarPlot(title=f"{task}, {head}: {name}", metrics=[f"eval/{task}/{head}/{name}"])
            for task in tasks
            for head in found[0].heads
        ]

    def line(metric: str) -> Any:
        return panels.LinePlot(title=metric, x="trainer/global_step", y=[metric])

    def shown(name: str, chart: Any) -> Any:
        if isinstance(chart, wandb.Table):
            return panels.WeavePanelSummaryTable(table_name=name)
        data = {"summaryTable": {"tableKey": f"{name}_table"}}  # where wandb.plot puts what it draws
        spec = chart.spec
        return panels.CustomChart(
            query=data, chart_name=spec.spec_name, chart_fields=spec.fields, chart_strings=spec.string_fields
        )

    sections = [
        spaces.Section("What was stolen", panels=bars("recovered"), is_open=True),
        spaces.Section("Accuracies", panels=[*bars("SA"), *bars("TA")]),
        spaces.Section("What honest users lose", panels=bars("honest_loss")),
        spaces.Section("Training", panels=[line(f"{step}/loss") for step in ("pretrain", "steal")], is_open=True),
        spaces.Section("Reports", panels=[shown(name, chart) for name, chart in made.items()], is_open=True),
        spaces.Section("Probes", panels=[panels.WeavePanelSummaryTable(table_name="probes")]),
        spaces.Section("Queries", panels=[panels.MediaBrowser(media_keys=["queries"])]),
    ]
    # A row that shows these is a run of the type `evaluate`: the one that each cell has.
    columns = [f"config:{setting}.value" for setting in ("sweep", "seed")]
    columns += [f"config:{group}.value.{setting}" for group, setting in COLUMNS]
    columns += [f"summary:eval/{task}/{head}/recovered" for task in tasks for head in found[0].heads]
    return spaces.Workspace(
        entity=entity,
        project=project,
        name="How stealable?",
        sections=sections,
        runset_settings=spaces.RunsetSettings(pinned_columns=columns),
    )


def main() -> None:
    """Log the charts; save the workspace where an entity is named."""
    parser = argparse.ArgumentParser(prog="python -m stealing.report.dashboard", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[WORK / "runs"], help="runs, folders of runs, or sweeps")
    parser.add_argument("--project", default="stealing")
    parser.add_argument("--entity", help="wandb user or team to save the workspace for; offline it is written as JSON")
    parser.add_argument("--head", default="linear", help="classifier of the figures: linear, knn or mlp")
    parser.add_argument(
        "--protocol", help="hash of the protocol by which the runs were judged, where there are several"
    )
    parser.add_argument("--out", type=Path, default=WORK / "report")
    chosen = parser.parse_args()
    try:
        found = settings(found_in(chosen.paths), chosen.protocol)
        check_head(found, chosen.head)
        made = charts(found, chosen.head)
        config = about(found, chosen.head)
        print(f"Written: {record(made, chosen.project, chosen.out, chosen.entity, config)}")
        if chosen.entity:
            view = workspace(found, made, chosen.entity, chosen.project)
            if mode() == "online":
                view.save()
                print(f"Saved: {view.url}")
            else:
                path = chosen.out / "workspace.json"
                write_whole(path, view._to_model().model_dump_json(by_alias=True, indent=1).encode())
                print(f"Written: {path}; the same command saves it once you are logged in to wandb.")
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
