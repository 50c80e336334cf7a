"""Weights & Biases: finished runs in; charts as a run of their own, and a workspace of panels, out.

python -m stealing.report.dashboard work/runs
    logs charts of these runs, offline without a login
python -m stealing.report.dashboard work/runs --entity me
    saves the workspace too, for this user or team
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import wandb

from stealing.artefacts import WORK, write_atomically
from stealing.commands import one_line_errors
from stealing.errors import ConfigError, DataError
from stealing.report.budgets import measure
from stealing.report.figures import defended
from stealing.report.runs import VARIED, RunGroup, check_head, find_runs, group_runs
from stealing.report.shares import pooled_over
from stealing.report.summary import overview, tidy
from stealing.text import printable
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


def charts(groups: Sequence[RunGroup], head: str) -> dict[str, Any]:
    """Return a report's tables and its curves over budgets and defenses, as objects of wandb."""
    table = overview(groups, head)
    runs = tidy(groups)
    rows = zip(*runs.to_pydict().values(), strict=True)
    drawn: dict[str, Any] = {
        "report/settings": wandb.Table(columns=list(table.columns), data=table.rows),
        "report/runs": wandb.Table(columns=[*runs.column_names], data=list(map(list, rows))),
        "report/budgets": _budgets(groups, head),
    }
    # There may be no defense to compare, or no informative task.
    with suppress(DataError):
        drawn["report/frontier"] = _frontier(groups, head)
    return drawn


def _budgets(groups: Sequence[RunGroup], head: str) -> Any:
    """Return what each attack recovered against queries, one line for attacks of one choice."""
    figure = measure(groups, head)
    lines = dict[str, list[tuple[float, float]]]()
    for group in groups:
        name = ", ".join(group.options(VARIED))
        spent = float(group.joined["queries"]["spent"])
        lines.setdefault(name, []).append((spent, group.overall(head)[figure]))
    across = []
    up = []
    for line in lines.values():
        queries, values = zip(*sorted(line), strict=True)
        across.append(list(queries))
        up.append(list(values))
    label = figure if figure == "SA" else f"{figure}, {pooled_over(groups, head)},"
    return wandb.plot.line_series(
        across, up, list(lines), title=f"{label} against queries", xname="queries"
    )


def _frontier(groups: Sequence[RunGroup], head: str) -> Any:
    """Return what each defense costs honest users and leaves to the attacker.

    Raises:
        DataError: as `defended`.
    """
    points, chosen = defended(groups, head)
    loss = "honest loss, points"
    recovered = f"recovered, {pooled_over(chosen, head)}"
    rows = [[point.name, point.loss_points[0], point.recovered] for point in points]
    table = wandb.Table(columns=["defense", loss, recovered], data=rows)
    return wandb.plot.scatter(table, loss, recovered, title="the frontier of defenses")


def about(groups: Sequence[RunGroup], head: str) -> dict[str, Any]:
    """Return the head of a report's figures and its cells, as their `config.cell` has them."""
    cells = list[str]()
    for group in groups:
        cells += group.joined["runs"]
    return {"head": head, "cells": cells}


def record(
    drawn: dict[str, Any],
    project: str,
    folder: Path,
    entity: str | None,
    config: dict[str, Any],
) -> Path:
    """Log the charts as a run of the type `report`; it belongs to no cell, so it has no group.

    Args:
        drawn: of `charts`.
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
        # Without a network, a report should not wait for long.
        settings=wandb.Settings(init_timeout=15, silent=True),
    )
    run.log(drawn)
    place = Path(run.dir).parent
    run.finish()
    return place


def workspace(groups: Sequence[RunGroup], drawn: dict[str, Any], entity: str, project: str) -> Any:
    """Return a workspace with the metrics that all runs log, and the charts of a report.

    Args:
        groups: run groups, whose tasks and heads name the metrics.
        drawn: of `charts`.
        entity: wandb user or team.
        project: wandb's project.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError:
        raise ConfigError(
            "A workspace needs wandb-workspaces: pip install -e '.[dashboard]'."
        ) from None
    tasks = dict[str, None]()
    for group in groups:
        tasks |= dict.fromkeys(group.joined["tasks"])
    places = list(product(tasks, groups[0].heads))
    losses = []
    for metric in ("pretrain/loss", "steal/loss"):
        losses.append(panels.LinePlot(title=metric, x="trainer/global_step", y=[metric]))
    reports = [_panel(panels, name, chart) for name, chart in drawn.items()]
    probes = panels.WeavePanelSummaryTable(table_name="probes")
    queries = panels.MediaBrowser(media_keys=["queries"])
    recovered = _bars(panels, places, "recovered")
    accuracies = [*_bars(panels, places, "SA"), *_bars(panels, places, "TA")]
    sections = [
        spaces.Section("What was stolen", panels=recovered, is_open=True),
        spaces.Section("Accuracies", panels=accuracies),
        spaces.Section("What honest users lose", panels=_bars(panels, places, "honest_loss")),
        spaces.Section("Training", panels=losses, is_open=True),
        spaces.Section("Reports", panels=reports, is_open=True),
        spaces.Section("Probes", panels=[probes]),
        spaces.Section("Queries", panels=[queries]),
    ]
    # A row that has these is a run of the type `evaluate`, of which each cell has one.
    columns = ["config:sweep.value", "config:seed.value"]
    for part, setting in COLUMNS:
        columns.append(f"config:{part}.value.{setting}")
    for task, head in places:
        columns.append(f"summary:eval/{task}/{head}/recovered")
    return spaces.Workspace(
        entity=entity,
        project=project,
        name="How easy to steal?",
        sections=sections,
        runset_settings=spaces.RunsetSettings(pinned_columns=columns),
    )


def _bars(panels: Any, places: Sequence[tuple[str, str]], name: str) -> list[Any]:
    """Return a bar plot of one figure for each task and head."""
    plots = []
    for task, head in places:
        metric = f"eval/{task}/{head}/{name}"
        plots.append(panels.BarPlot(title=f"{task}, {head}: {name}", metrics=[metric]))
    return plots


def _panel(panels: Any, name: str, chart: Any) -> Any:
    """Return the panel of one chart of a report."""
    if isinstance(chart, wandb.Table):
        return panels.WeavePanelSummaryTable(table_name=name)
    spec = chart.spec
    return panels.CustomChart(
        # wandb.plot stores what it draws under this key.
        query={"summaryTable": {"tableKey": f"{name}_table"}},
        chart_name=spec.spec_name,
        chart_fields=spec.fields,
        chart_strings=spec.string_fields,
    )


def main() -> None:
    """Log the charts; save the workspace if an entity is named."""
    options = _parser().parse_args()
    with one_line_errors():
        groups = group_runs(find_runs(options.paths), options.protocol)
        check_head(groups, options.head)
        drawn = charts(groups, options.head)
        config = about(groups, options.head)
        place = record(drawn, options.project, options.out, options.entity, config)
        print(printable(f"Written: {place}"))
        if options.entity:
            view = workspace(groups, drawn, options.entity, options.project)
            print(printable(_save(view, options.out)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stealing.report.dashboard", description=__doc__
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[WORK / "runs"],
        help="runs, folders of runs, or sweeps",
    )
    parser.add_argument("--project", default="stealing")
    parser.add_argument(
        "--entity",
        help="wandb user or team to save the workspace for; offline it is written as JSON",
    )
    parser.add_argument(
        "--head", default="linear", help="classifier of the figures: linear, knn or mlp"
    )
    parser.add_argument(
        "--protocol",
        help="hash of the protocol by which the runs were judged, if there are several",
    )
    parser.add_argument("--out", type=Path, default=WORK / "report")
    return parser


def _save(view: Any, folder: Path) -> str:
    """Save a workspace at wandb, or offline as JSON; return a line that says where."""
    if mode() == "online":
        view.save()
        return f"Saved: {view.url}"
    path = folder / "workspace.json"
    # Private, but the library has no public way to write a workspace to a file.
    text = view._to_model().model_dump_json(by_alias=True, indent=1)
    write_atomically(path, text.encode())
    return f"Written: {path}; the same command saves it once you are logged in to wandb."


if __name__ == "__main__":
    main()
