"""Label-Trim on shuttle: calibration rows that hold anomalies, and a small budget of labels against that.

Protocol of Bashari, Sesia, Romano 2025: Isolation Forest with 100 trees on 5,000 rows; 2,500 calibration rows, a share
rho of them anomalies; tested on 950 normal rows and 50 anomalies; eps 1, 2 and 3 %; rho 3 % and a budget of 50 labels
where nothing else is said. In each of 100 redraws all rows are drawn anew, without replacement, from ADBench's shuttle
(45,586 normal rows, 3,511 anomalies). The arms differ in the calibration rows alone:

- naive: all of them;
- label-trim: without the anomalies among the `budget` highest scores, which get labels;
- naive-trim: without the `budget` highest scores, whatever they are (the paper's drops the share rho of them instead);
- oracle: without all anomalies.

The forest is trained on normal rows, and once also, as in the paper's code, on rows of which rho are anomalies. Mean
and standard error over the redraws, in %. Nothing was chosen by labels.

Usage: python benchmarks/label_trim.py      (ASSAY_DATA_MIRROR or network access for the public set)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.contaminated.estimates import contamination_from_answers
from assay.calibration.contaminated.label_trim import choose_questions, fpr_range, rows_to_label, trim
from assay.data.dataset import Dataset
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.detectors.registry import make_detector

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "label_trim.md"
PICTURE = OUT.with_suffix(".png")
REDRAWS = range(100)
N_TRAIN, N_CAL, N_NORMAL, N_ANOMALOUS = 5_000, 2_500, 950, 50
EPS = (0.01, 0.02, 0.03)
RHO, RHOS = 0.03, (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
BUDGET, BUDGETS = 50, (10, 25, 50, 75, 90, 105)
SAMPLE, CONFIDENCE = 299, 0.95
ARMS = ("naive", "label-trim", "naive-trim", "oracle")
READING = """
Naive calibration is valid and loses most of its power at eps 1 %: the anomalies take the ranks that would be flagged.
Label-Trim is between naive and oracle, in power and in false positives, at every eps, rho and budget. It is level with
the oracle once the budget covers the anomalies and the ranks that eps flags (75 + 25 rows at rho 3 % and eps 1 %); 50
labels against 100 or more anomalies leave a good part of the loss. Naive-trim looks as good here until it drops more
rows than there are anomalies; then its false-positive rate goes beyond eps, up to three times as high (rho 0, eps 1 %),
and nothing in unlabelled scores tells when. Anomalies of shuttle score high, hence naive and trimmed rates below eps;
where they hide among the normal rows the bound in the last table is what remains. There, "interval" and "bound" are
at 95 % confidence, "holds" is the share of redraws in which they are right, and "left" is the true share of anomalies
among the rows that stay after Label-Trim; the labels of the random sample are used for the estimate alone.
"""
Array = np.ndarray[Any, Any]


def measure(dataset: Dataset, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every arm reaches in one redraw."""
    rng = np.random.default_rng(seed)
    normal, anomalous = (rng.permutation(np.flatnonzero(dataset.data.labels == label)) for label in (0, 1))
    cuts = np.cumsum([N_TRAIN, N_CAL, N_NORMAL])
    train, calibration, test = (dataset.data.features[part] for part in np.split(normal, cuts)[:3])
    cuts = np.cumsum([round(RHO * N_TRAIN), round(max(RHOS) * N_CAL), N_ANOMALOUS])
    hidden, foreign, sought = (dataset.data.features[part] for part in np.split(anomalous, cuts)[:3])
    for trained in ("normal", "contaminated"):
        rows = train if trained == "normal" else np.concatenate([train[len(hidden) :], hidden])
        scaler = TABULAR.scaler().fit(rows)
        detector = make_detector("isolation_forest", {}, seed=seed, device="cpu").fit(scaler.transform(rows))
        scores = [detector.decision_function(scaler.transform(x)) for x in (calibration, foreign, test, sought)]
        settings = {(rho, BUDGET) for rho in RHOS} | {(RHO, budget) for budget in BUDGETS}
        for rho, budget in sorted(settings if trained == "normal" else {(RHO, BUDGET)}):
            k = round(rho * N_CAL)
            reference, truth = np.r_[scores[1][:k], scores[0][k:]], np.arange(N_CAL) < k
            shown = {"trained": trained, "rho": rho, "budget": budget, "seed": seed}
            for row in judge(reference, truth, budget, scores[2], scores[3], seed):
                yield {**shown, **row}


def judge(
    reference: Array, truth: Array, budget: int, normal: Array, anomalous: Array, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield false-positive rate and power of every arm at every eps."""
    top = rows_to_label(reference, budget)
    labels = np.full(N_CAL, -1)
    labels[top] = truth[top]
    kept, report = trim(reference, labels)
    arms = (reference, kept, np.delete(reference, top), reference[~truth])
    purposes = choose_questions(reference, [str(i) for i in range(N_CAL)], budget=budget, sample=SAMPLE, seed=seed)
    known = contamination_from_answers(np.where(purposes == "", -1, truth), purposes, confidence=CONFIDENCE)
    assert known.left is not None
    left = (truth.sum() - report.removed) / report.m_after
    told = {
        "left": left,
        "low": known.low,
        "high": known.high,
        "bound": known.left,
        "inside": known.low <= truth.mean() <= known.high,
        "bounded": left <= known.left,
    }
    for arm, scores in zip(ARMS, arms, strict=True):
        calibrator = ConformalCalibrator().fit(scores)
        for eps in EPS:
            rates = {
                "fpr": calibrator.predict(normal, eps).mean(),
                "power": calibrator.predict(anomalous, eps).mean(),
            }
            yield {"arm": arm, "eps": eps, **rates, **told}


def _cell(values: pd.Series[float]) -> str:
    return f"{100 * float(values.mean()):.2f} ± {100 * float(np.std(values, ddof=1)) / len(values) ** 0.5:.2f}"


def arms_table(found: pd.DataFrame) -> str:
    """Format false-positive rate and power of all arms at every eps."""
    words = ["| eps | rate | " + " | ".join(ARMS) + " |", "|---|---|" + "---|" * len(ARMS)]
    for eps, rows in found.groupby("eps"):
        for metric, name in (("fpr", "false positives"), ("power", "power")):
            cells = [_cell(rows.loc[rows["arm"] == arm, metric]) for arm in ARMS]
            words.append(f"| {eps:.0%} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def sweep_table(found: pd.DataFrame, by: str, metric: str) -> str:
    """Format one rate of all arms, for every value of `by` and every eps."""
    words = [f"| {by} | eps | " + " | ".join(ARMS) + " |", "|---|---|" + "---|" * len(ARMS)]
    for (value, eps), rows in found.groupby([by, "eps"]):
        cells = [_cell(rows.loc[rows["arm"] == arm, metric]) for arm in ARMS]
        shown = f"{value:.0%}" if by == "rho" else f"{value}"
        words.append(f"| {shown} | {eps:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def known_table(found: pd.DataFrame) -> str:
    """Format what the labels say about the contamination, and how often that is right."""
    rows = found[(found["arm"] == "label-trim") & (found["eps"] == EPS[0])]
    words = [
        "| rho | budget | interval for rho | holds | left | bound | holds | worst false-positive rate at eps 3 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (rho, budget), group in rows.groupby(["rho", "budget"]):
        mean = group[["low", "high", "inside", "left", "bound", "bounded"]].mean()
        cells = [f"{mean['low']:.2%} to {mean['high']:.2%}", f"{mean['inside']:.0%}", f"{mean['left']:.2%}"]
        cells += [f"{mean['bound']:.2%}", f"{mean['bounded']:.0%}", f"{fpr_range(EPS[-1], mean['bound'])[1]:.2%}"]
        words.append(f"| {rho:.0%} | {budget} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def draw(found: pd.DataFrame) -> None:
    """Draw power and false-positive rate against the budget, a column for each eps."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(2, len(EPS), sharex=True, sharey="row")
    for column, eps in zip(axes.T, EPS, strict=True):
        for axis, metric in zip(column, ("power", "fpr"), strict=True):
            for arm in ARMS:
                rows = found[(found["arm"] == arm) & (found["eps"] == eps)].groupby("budget")[metric]
                axis.errorbar(BUDGETS, 100 * rows.mean(), 100 * rows.sem(), marker="o", ms=3, capsize=2, label=arm)
        column[0].set_title(f"eps = {eps:.0%}")
        column[1].axhline(100 * eps, color="black", lw=0.8, ls="--")
        column[1].set_xlabel("budget (labels, or rows dropped)")
    axes[0, 0].set_ylabel("power, %")
    axes[1, 0].set_ylabel("false positives, %")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Measure everything, write docs/benchmarks/label_trim.md and the picture beside it."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    dataset = load_named("shuttle", mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
    progress = track(REDRAWS, "redraws", disable=not sys.stderr.isatty())
    found = pd.DataFrame([row for seed in progress for row in measure(dataset, seed)])
    clean = found[found["trained"] == "normal"]
    at_rho, at_budget = clean[clean["rho"] == RHO], clean[clean["budget"] == BUDGET]
    draw(at_rho)
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    parts = {
        f"rho {RHO:.0%}, budget {BUDGET}": arms_table(at_rho[at_rho["budget"] == BUDGET]),
        f"The same, trained on rows of which {RHO:.0%} are anomalies": arms_table(found[found["trained"] != "normal"]),
        f"Power by budget, rho {RHO:.0%}": sweep_table(at_rho, "budget", "power"),
        f"False positives by budget, rho {RHO:.0%}": sweep_table(at_rho, "budget", "fpr"),
        f"Power by rho, budget {BUDGET}": sweep_table(at_budget, "rho", "power"),
        f"False positives by rho, budget {BUDGET}": sweep_table(at_budget, "rho", "fpr"),
        f"What is known, with {SAMPLE} of the other rows labelled besides": known_table(clean),
    }
    text = "".join(f"\n## {title}\n\n{table}" for title, table in parts.items())
    head = f"# Label-Trim\n\n{protocol}\n\nMade by `python benchmarks/label_trim.py`.\n{READING}\n"
    OUT.write_text(f"{head}![By budget]({PICTURE.name})\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
