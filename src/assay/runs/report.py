"""The leaderboard of a run and its report: one HTML page with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from assay.calibration.calibrators.promise import band_sentence
from assay.data.dataset import read_rows
from assay.hashing import RECORD, hash_file, hash_json
from assay.parts import read_json, write_bytes
from assay.pipeline.candidates import Candidates, candidate_name
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.rows import HELD, MOST_JUDGED, levels_of, rho_of
from assay.pipeline.selecting import read_selection
from assay.project.comparisons import Comparison, read_comparisons, words_of
from assay.project.layout import Project
from assay.project.stages import folders_of
from assay.runs.choice import beside_default, choice_sentence
from assay.runs.foremost import picture_source, suspected_images, suspected_rows

if TYPE_CHECKING:
    from assay.evaluation.tested import Evaluation
    from assay.scorer.scorer import Scorer

NUMBERS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")
_COLUMNS = ("detector", "adapter", *NUMBERS, "selection_power", "fit_seconds", "state", "reason")
HEADINGS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "fpr": "FPR",
    "worst_stratum_fpr": "worst stratum FPR",
    "fit_seconds": "fit s",
}
LEVELS = "Power on test anomalies by injected contamination of the training rows"
EVIDENCE = {
    "labels": "labelled test rows",
    "anomalies": "labelled anomalies against presumed normal rows, since no row is labelled normal",
    "probes": "synthetic probes against presumed normal rows, since there are too few labels",
}
PART_WORDS = {
    "unseen": (
        "Over contents that training has not seen",
        "have a content that no train and no adapt row has. The promise of eps is for all rows; these are chosen by "
        "content.",
    ),
    "incomplete": (
        "Over rows with missing values or new categories",
        "lack a value, or have a category that no training row has. The promise of eps is for all rows.",
    ),
    "complete": (
        "Over rows without missing values or new categories",
        "lack nothing, and have only categories of training rows. The promise of eps is for all rows.",
    ),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate's line of the leaderboard.

    Attributes
    ----------
    detector, adapter : str
    auroc, auprc, fpr, worst_stratum_fpr, power : float or None
        On the test rows, by the models trained without injected rows; None where it could not be trained.
    fit_seconds : float or None
        None where it was not trained here.
    selection_power : float or None
        Mean over all levels on selection rows, the criterion of the choice.
    chosen : bool
    state : {"chosen", "", "not valid"}
    reason : str
        Why it is not valid, how it compares with the default, and at which levels it could not be trained and why.
    """

    detector: str
    adapter: str
    auroc: float | None
    auprc: float | None
    fpr: float | None
    worst_stratum_fpr: float | None
    power: float | None
    fit_seconds: float | None
    selection_power: float | None
    chosen: bool
    state: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain JSON values."""
        return asdict(self)


def leaderboard(project: Project) -> list[Standing]:
    """Return one line per candidate, in the order of params.yaml, from the finished stages."""
    level = levels_of(project.folder("contaminate"))[0]
    tested = read_evaluation(project.folder("evaluate")).at(level)
    selection = read_selection(project.folder("select"))
    selected = {(row.detector, row.adapter): row for row in selection.candidates}
    seconds = fit_seconds(project)
    rows = []
    for detector, adapter in Candidates(project.config.detectors, project.config.adapters).pairs():
        key = (detector.label, adapter.label)
        metrics, choice = tested.get(key), selected.get(key)
        numbers: dict[str, Any] = {name: getattr(metrics, name, None) for name in NUMBERS}
        won = choice is not None and choice is selection.chosen
        untrained = untrained_words(selection.untrained.get(detector.label, {}))
        reasons = (choice.reason, beside_default(choice, selection), untrained) if choice else (untrained,)
        rows.append(
            Standing(
                *key,
                **numbers,
                fit_seconds=seconds.get(detector.label, {}).get(level),
                selection_power=choice.power if choice else None,
                chosen=won,
                state="chosen" if won else "" if choice and choice.valid else "not valid",
                reason="; ".join(filter(None, reasons)),
            )
        )
    return rows


def contradictions(project: Project) -> str:
    """Return in a sentence which contents are labelled both normal and anomalous, and what becomes of them; or ""."""
    found = read_json(project.folder("validate") / "summary.json")["contents"]
    if not found["contradicting"]:
        return ""
    count = f"{found['contradicting']} content{'s are' if found['contradicting'] > 1 else ' is'}"
    sentence = (
        f"{count} labelled both 1 ({found['contradicting_anomalies']} rows) and 0 ({found['contradicting_normals']} "
        f"rows), for instance in rows {', '.join(found['contradicting_rows'])}: the former are neither injected nor "
        "learned from, the latter count as normal everywhere"
    )
    evaluation = read_evaluation(project.folder("evaluate"))
    if not evaluation.n_contradicted:
        return sentence
    powers = [
        f"{candidate_name(row.detector, row.adapter)} {'-' if power is None else f'{power:.3f}'}"
        for row in evaluation.candidates
        if row.level == levels_of(project.folder("contaminate"))[0]
        for power in [row.uncontradicted_power]
    ]
    return f"{sentence}; power without the {evaluation.n_contradicted} test anomalies among them: {', '.join(powers)}"


def left_out_levels(project: Project) -> str:
    """Return in a sentence which of the levels that are tried without being asked for were left out, or ""."""
    plan = read_json(project.folder("contaminate") / "plan.json")
    if not plan.get("left_out"):
        return ""
    needed = ", ".join(f"{level} (it takes {count} rows)" for level, count in plan["left_out"].items())
    return f"contamination levels that were left out, as the injection pool holds {plan['n_pool']} anomalies: {needed}"


def held_rows(project: Project) -> str:
    """Return in a sentence which rows were too many, so that a random sample of them was used, or ""."""
    level = levels_of(project.folder("contaminate"))[0]
    samples: dict[str, list[str]] = {}
    for detector in project.config.detectors:
        cells = {verb: project.folder(verb, detector.label) for verb in ("train", "calibrate")}
        trained = read_json(cells["train"] / HELD) if (cells["train"] / HELD).is_file() else {}
        calibrated = read_json(cells["calibrate"] / "calibration.json").get("held", {})
        for role, (kept, n) in {"training": trained.get(level, [0, 0]), **calibrated}.items():
            if n:
                samples.setdefault(f"{kept:,} of {n:,} {role} rows", []).append(detector.label)
    roles = read_json(project.folder("split") / "split.json")["roles"]
    judged = [role for role in ("selection", "gate", "test") if roles[role]["rows"] > MOST_JUDGED]
    parts = [f"{words} ({', '.join(labels)})" for words, labels in samples.items()]
    parts += [f"at most {MOST_JUDGED:,} normals and anomalies each of {' and '.join(judged)}"] if judged else []
    return f"of many rows a random sample is used: {'; '.join(parts)}" if parts else ""


def gate_comparison(project: Project, scorer: Scorer | None) -> Comparison | None:
    """Return the newest comparison of the packaged scorer, by any of its statements, with a champion."""
    comparisons = read_comparisons(project.root, project.dataset, project.events)
    return next((each for each in reversed(comparisons) if scorer and each.is_of(scorer.version)), None)


def untrained_words(failures: Mapping[str, str]) -> str:
    """Return as text at which levels a detector could not be trained, and why; "" if there are none."""
    levels: dict[str, list[str]] = {}
    for level, reason in failures.items():
        levels.setdefault(reason, []).append(f"{rho_of(level):g}")
    return "; ".join(f"failed at level {', '.join(at)}: {reason}" for reason, at in levels.items())


def fit_seconds(project: Project) -> dict[str, dict[str, float]]:
    """Return seconds of each detector's fit at each level, as logged when the models were trained here."""
    records = {hash_file(folder / RECORD) for folder in folders_of(project, "train").values()}
    seconds: dict[str, dict[str, float]] = {}
    for event in reversed(project.events):
        if not records:
            break
        if event["event"] == "stage" and event["record"] in records:
            records.remove(event["record"])
            seconds |= event["details"].get("fit_seconds", {})
    return seconds


def write_report(
    project: Project, scorer: Scorer | None, rows: list[Standing], helps: list[str], compared: Comparison | None
) -> Path:
    """Draw ``.assay/reports/<name>.html``: leaderboard, packaged scorer, p-values, FPR by stratum, power by level.

    A report of the same numbers, drawn by the same code, stays as it is. `rows` are those of `leaderboard`, `helps`
    what would help, and `compared` is what `gate_comparison` returns.
    """
    evaluation = read_evaluation(project.folder("evaluate"))
    path = project.state / "reports" / f"{project.dataset}.html"
    text = _page(project, scorer, evaluation, rows, [], [], helps, compared)
    own = Path(__file__)
    drawn_by = [own, own.with_name("foremost.py"), own.parents[1] / "evaluation" / "pictures.py"]
    sources = [*drawn_by, project.folder("evaluate") / RECORD]
    mark = f"<!-- {hash_json([text, *map(hash_file, sources)])} -->\n"
    if path.is_file() and path.read_bytes().endswith(mark.encode()):
        return path
    measured = [row for row in rows if row.auroc is not None]
    shown = next((row for row in measured if row.chosen), measured[0])
    figures = [*_diagnostics(project, shown.detector, shown.adapter), (LEVELS, picture_source(_levels(evaluation)))]
    suspects: list[str] = []
    if scorer is not None and not scorer.localises:
        suspects = suspected_rows(read_rows(project.folder("split") / "test"), scorer)
    elif scorer is not None:
        suspects, picture = suspected_images(read_rows(project.folder("split") / "test"), scorer)
        tested = evaluation.at(levels_of(project.folder("contaminate"))[0])[shown.detector, shown.adapter]
        by_masks = f" (pixel AUROC {tested.pixel_auroc:.3f})" if tested.pixel_auroc is not None else ""
        figures.append((f"Test images with the highest scores, and where these come from{by_masks}", picture))
    page = _page(project, scorer, evaluation, rows, figures, suspects, helps, compared)
    write_bytes(path, f"{page}\n{mark}".encode())
    return path


def _page(
    project: Project,
    scorer: Scorer | None,
    evaluation: Evaluation,
    rows: list[Standing],
    figures: list[tuple[str, str]],
    suspects: list[str],
    helps: list[str],
    compared: Comparison | None,
) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay.runs", "."), autoescape=True)
    environment.filters.update(cell=_cell, heading=lambda name: HEADINGS.get(name, name.replace("_", " ")))
    return environment.get_template("report.html").render(
        dataset=project.dataset,
        scorer=scorer,
        evidence=EVIDENCE[evaluation.evidence],
        columns=_COLUMNS,
        rows=[row.to_json() for row in rows],
        figures=figures,
        suspects=suspects,
        record=(project.folder("evaluate") / RECORD).relative_to(project.root),
        eps=evaluation.eps,
        n_normals=evaluation.n_normals,
        n_anomalies=evaluation.n_anomalies,
        choice=choice_sentence(read_selection(project.folder("select"))),
        helps=helps,
        band=band_sentence(scorer.fpr_bands(), scorer.head["eps"]) if scorer else "",
        left_out=left_out_levels(project),
        held=held_rows(project),
        contradictions=contradictions(project),
        gate=None if compared is None else words_of(compared),
        parts=_parts(project, evaluation),
        part_columns=("detector", "adapter", *NUMBERS),
        contexts=_contexts(scorer),
    )


def _contexts(scorer: Scorer | None) -> list[list[str]]:
    """Return the words of the contexts of a scorer of texts whose detector has some; else nothing."""
    from assay.detectors.base import ReadsWords

    detector = None if scorer is None else scorer.function.detector
    return detector.contexts() if isinstance(detector, ReadsWords) else []


def _parts(project: Project, evaluation: Evaluation) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return title, sentence and figures of every part of the test rows that is not all of them."""
    level = levels_of(project.folder("contaminate"))[0]
    tables = []
    for name, (title, sentence) in PART_WORDS.items():
        figures = [(row, getattr(row, name)) for row in evaluation.at(level).values()]
        rows = [
            {"detector": row.detector, "adapter": row.adapter, **asdict(part)}
            for row, part in figures
            if part is not None and part.n_normals < evaluation.n_normals
        ]
        if rows:
            counts = f"{rows[0]['n_normals']} of the normals and {rows[0]['n_anomalies']} of the anomalies"
            tables.append((title, f"{counts} {sentence}", rows))
    return tables


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _diagnostics(project: Project, detector: str, adapter: str) -> list[tuple[str, str]]:
    """Return the pictures of a candidate's calibration, with titles."""
    from assay.evaluation import pictures
    from assay.evaluation.diagnostics import Diagnostics

    folder = project.folder("evaluate") / "diagnostics"
    diagnostics = {}
    for choice in project.config.adapters:
        content = read_json(folder / f"{candidate_name(detector, choice.label)}.json")
        diagnostics[choice.label] = Diagnostics.from_json(content)
    chosen, name = diagnostics[adapter], candidate_name(detector, adapter)
    figures = [
        (
            f"p-values of test normals by {name}: bars should end in bands",
            pictures.histogram_picture(chosen.histogram),
        ),
        (f"False-positive rate of {name} at each eps", pictures.reliability_picture(chosen.reliability)),
        (
            f"False-positive rate of {detector} by quartile of hardness, at eps {chosen.eps:g}",
            pictures.strata_picture(
                {label: diagnostic.strata for label, diagnostic in diagnostics.items()}, chosen.eps
            ),
        ),
        (f"Score of {name} against hardness", pictures.hardness_picture(chosen.before, chosen.after)),
    ]
    if chosen.power is not None:
        figures.append(
            (f"Power of {name} on test anomalies at each eps", pictures.power_picture(chosen.power, chosen.eps))
        )
    if chosen.path is not None:
        title = f"Test martingale of {name} over the test normals: high where they are not like the calibration rows"
        figures.append((title, pictures.path_picture(chosen.path)))
    return [(title, picture_source(figure)) for title, figure in figures]


def _levels(evaluation: Evaluation) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in evaluation.candidates:
        lines.setdefault((row.detector, row.adapter), []).append((rho_of(row.level), row.power))
    detectors, adapters = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    for (detector, adapter), points in lines.items():
        colour, style = f"C{detectors.index(detector)}", ("-", "--", ":", "-.")[adapters.index(adapter) % 4]
        label = candidate_name(detector, adapter)
        axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="injected rho", ylabel="power", ylim=(-0.02, 1.02))
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def figure_names(eps: float, evidence: str) -> list[str]:
    """Return what the figures of `NUMBERS` are called, which says what they are where labels are missing."""
    rates = [f"FPR at {eps:g}", "worst stratum FPR"]
    if evidence != "labels":
        rates = [f"flag rate on presumed normals at {eps:g}", "worst stratum flag rate"]
    if evidence == "probes":
        return ["AUROC on probes", "AUPRC on probes", *rates, "power on synthetic probes"]
    return ["AUROC", "AUPRC", *rates, "power"]


def candidates_table(rows: Sequence[Standing], *, eps: float, evidence: str, title: str) -> Table:
    """Build the table of candidates that ends a run.

    Parameters
    ----------
    rows : sequence of Standing
        The leaderboard.
    eps : float
    evidence : {"labels", "anomalies", "probes"}
        Selects the names of columns.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("detector")
    table.add_column("adapter")
    for name in [*figure_names(eps, evidence), "fit s"]:
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        numbers = [getattr(row, name) for name in NUMBERS]
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        fit = "-" if row.fit_seconds is None else f"{row.fit_seconds:.2f}"
        table.add_row(row.detector, row.adapter, *shown, fit, row.state, style="bold" if row.chosen else None)
    return table
