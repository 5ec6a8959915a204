"""The leaderboard of a run and its report: one HTML page with pictures, for people."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from assay.lineage.records import RECORD, hash_file
from assay.parts import read_arrays, read_json, write_bytes
from assay.pipeline.candidates import candidate_name, candidate_pairs
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.rows import levels_of
from assay.project import Project

NUMBERS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")
COLUMNS = ("detector", "adapter", *NUMBERS, "selection_power", "fit_seconds", "state", "reason")
HEADINGS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "fpr": "FPR",
    "worst_stratum_fpr": "worst stratum FPR",
    "fit_seconds": "fit s",
}
EVIDENCE = {
    "labels": "labelled test rows",
    "anomalies": "labelled anomalies against presumed normal rows, since no row is labelled normal",
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
            f"Share of test rows flagged by {name} at each eps: normals should follow the diagonal",
            _shares(project, name),
        ),
        (f"False-positive rate of {shown['detector']} by hardness", _strata(evaluation, shown["detector"])),
        ("Power on test anomalies by injected contamination of the training rows", _levels(evaluation)),
    ]
    write_bytes(path, _page(project, evaluation, rows, figures).encode())
    return path


def _page(
    project: Project, evaluation: dict[str, Any], rows: list[dict[str, Any]], figures: list[tuple[str, str]]
) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay", "templates"), autoescape=True)
    environment.filters.update(cell=_cell, heading=lambda name: HEADINGS.get(name, name.replace("_", " ")))
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


def _shares(project: Project, name: str) -> str:
    level = levels_of(project.folder("train"))[0]
    arrays = read_arrays(project.folder("evaluate") / "p_values" / f"{level}.safetensors")
    figure, axes = _figure()
    for kind, colour in (("anomalies", "#cc6677"), ("normals", "#4477aa")):
        if f"{name}.{kind}" in arrays:
            axes.ecdf(arrays[f"{name}.{kind}"], color=colour, label=kind)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axes.set(xlabel="eps", ylabel="share with p <= eps", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    return _source(figure)


def _strata(evaluation: dict[str, Any], detector: str) -> str:
    figure, axes = _figure()
    rows = [row for row in evaluation["candidates"] if row["detector"] == detector]
    rows = [row for row in rows if row["level"] == rows[0]["level"]]
    for number, row in enumerate(rows):
        strata = sorted(row["stratum_fpr"].items())
        places = [int(stratum) + 1 + (number - (len(rows) - 1) / 2) * 0.8 / len(rows) for stratum, _ in strata]
        axes.bar(places, [rate for _, rate in strata], width=0.8 / len(rows), label=row["adapter"])
    axes.axhline(evaluation["eps"], color="black", linewidth=1, linestyle="--", label=f"eps = {evaluation['eps']:g}")
    axes.set(xlabel="hardness quartile (1 = easiest)", ylabel="FPR", xticks=[1, 2, 3, 4])
    axes.legend(title="adapter", loc="upper left", bbox_to_anchor=(1, 1))
    return _source(figure)


def _levels(evaluation: dict[str, Any]) -> str:
    figure, axes = _figure()
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in evaluation["candidates"]:
        rho = float(row["level"].removeprefix("level-"))
        lines.setdefault((row["detector"], row["adapter"]), []).append((rho, row["power"]))
    detectors, adapters = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    for (detector, adapter), points in lines.items():
        colour, style = f"C{detectors.index(detector)}", ("-", "--", ":", "-.")[adapters.index(adapter) % 4]
        label = candidate_name(detector, adapter)
        axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="injected rho", ylabel="power", ylim=(-0.02, 1.02))
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return _source(figure)
