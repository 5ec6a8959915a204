"""The leaderboard of a run and its report: one HTML page with pictures, for people."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from assay.lineage.records import RECORD, hash_file
from assay.parts import read_arrays, read_json, write_bytes
from assay.pipeline import candidate_name, candidate_pairs, levels_of, read_evaluation
from assay.project import Project

NUMBERS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")
COLUMNS = ("detector", "adapter", *NUMBERS, "selection_power", "fit_seconds", "state", "reason")
EVIDENCE = {
    "labels": "labelled test rows",
    "probes": "synthetic probes against presumed normal rows, since there are too few labels",
}


def leaderboard(project: Project) -> list[dict[str, Any]]:
    """Return one row per candidate, in the order of params.yaml, from the finished stages.

    Test metrics are those of the models trained without injected rows; ``selection_power`` is the mean over
    all levels on selection rows, which is what the choice was made by.
    """
    level = levels_of(project.folder("train"))[0]
    tested = {
        (r["detector"], r["adapter"]): r
        for r in read_evaluation(project.folder("evaluate"))["candidates"]
        if r["level"] == level
    }
    selection = read_json(project.folder("select") / "selection.json")
    chosen = None if selection["winner"] is None else selection["candidates"][selection["winner"]]
    selected = {(r["detector"], r["adapter"]): r for r in selection["candidates"]}
    untrained = selection["untrained"]
    seconds = fit_seconds(project)
    rows = []
    for detector, adapter in candidate_pairs(project.config.detectors, project.config.adapters):
        key = (detector.label, adapter.label)
        metrics, choice = tested.get(key, {}), selected.get(key, {})
        won = chosen is not None and key == (chosen["detector"], chosen["adapter"])
        rows.append(
            {
                "detector": detector.label,
                "adapter": adapter.label,
                **{name: metrics.get(name) for name in NUMBERS},
                "fit_seconds": seconds.get(detector.label, {}).get(level),
                "selection_power": choice.get("power"),
                "chosen": won,
                "state": "chosen" if won else "" if choice.get("valid") else "not valid",
                "reason": choice.get("reason", "; ".join(dict.fromkeys(untrained.get(detector.label, {}).values()))),
            }
        )
    return rows


def fit_seconds(project: Project) -> dict[str, dict[str, float]]:
    """Return seconds of each detector's fit at each level, as logged when the models were trained here."""
    path = project.folder("train") / RECORD
    event = project.events.last("stage", record=hash_file(path))
    found: dict[str, dict[str, float]] = event["details"].get("fit_seconds", {}) if event else {}
    return found


def write_report(project: Project) -> Path:
    """Draw ``.assay/reports/<name>.html``: leaderboard, p-values, FPR by stratum, power by level."""
    evaluation = read_evaluation(project.folder("evaluate"))
    path = project.state / "reports" / f"{project.dataset}.html"
    rows = leaderboard(project)
    shown = next((row for row in rows if row["chosen"]), rows[0])
    name = candidate_name(shown["detector"], shown["adapter"])
    figures = [
        (
            f"p-values of {name} on test rows: normals should be flat",
            _p_values(project, name, evaluation["eps"]),
        ),
        ("False-positive rate by hardness stratum, level 0", _strata(evaluation)),
        ("Power on test anomalies by injected contamination", _levels(evaluation)),
    ]
    write_bytes(path, _page(project, evaluation, rows, figures).encode())
    return path


def _page(
    project: Project, evaluation: dict[str, Any], rows: list[dict[str, Any]], figures: list[tuple[str, str]]
) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay", "templates"), autoescape=True)
    environment.filters["cell"] = _cell
    about = {name: evaluation[name] for name in ("eps", "n_normals", "n_anomalies")}
    return environment.get_template("report.html").render(
        dataset=project.dataset,
        evidence=EVIDENCE[evaluation["evidence"]],
        columns=COLUMNS,
        rows=rows,
        figures=figures,
        record=(project.folder("evaluate") / RECORD).relative_to(project.root),
        **about,
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _source(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _p_values(project: Project, name: str, eps: float) -> str:
    level = levels_of(project.folder("train"))[0]
    arrays = read_arrays(project.folder("evaluate") / "p_values" / f"{level}.safetensors")
    figure, axes = _figure()
    for kind, colour in (("normals", "#4477aa"), ("anomalies", "#cc6677")):
        if f"{name}.{kind}" in arrays:
            axes.hist(
                arrays[f"{name}.{kind}"],
                bins=20,
                range=(0, 1),
                density=True,
                alpha=0.6,
                color=colour,
                label=kind,
            )
    axes.axhline(1, color="grey", linewidth=1)
    axes.axvline(eps, color="black", linewidth=1, linestyle="--", label=f"eps = {eps:g}")
    axes.set(xlabel="p-value", ylabel="density")
    axes.legend()
    return _source(figure)


def _strata(evaluation: dict[str, Any]) -> str:
    figure, axes = _figure()
    first = evaluation["candidates"][0]["level"] if evaluation["candidates"] else ""
    rows = [row for row in evaluation["candidates"] if row["level"] == first]
    for number, row in enumerate(rows):
        strata = sorted(row["stratum_fpr"].items())
        places = [int(stratum) + 1 + (number - len(rows) / 2) * 0.8 / len(rows) for stratum, _ in strata]
        axes.bar(
            places,
            [rate for _, rate in strata],
            width=0.8 / len(rows),
            label=candidate_name(row["detector"], row["adapter"]),
        )
    axes.axhline(evaluation["eps"], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="hardness quartile (1 = easiest)", ylabel="FPR", xticks=[1, 2, 3, 4])
    axes.legend(fontsize=7, ncols=2)
    return _source(figure)


def _levels(evaluation: dict[str, Any]) -> str:
    figure, axes = _figure()
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in evaluation["candidates"]:
        rho = float(row["level"].removeprefix("level-"))
        lines.setdefault(candidate_name(row["detector"], row["adapter"]), []).append((rho, row["power"]))
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.set(xlabel="injected rho", ylabel="power", ylim=(0, 1.02))
    axes.legend(fontsize=7, ncols=2)
    return _source(figure)
