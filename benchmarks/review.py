"""What answers to `assay review` regain: AUPRC after 5, 10 and 20 of them.

Protocol as in reach.md: nine public tabular sets, 3 seeds, at most 1,000 train normals and, at rho, pool anomalies that
nobody labels; tested on the selection and test rows, which no answer changes. Five questions are asked at a time, as
`assay review --budget 5` asks them, four times over. The truth answers: a group is bad if half of its rows or more were
injected, else good, and so is a single row. Bad rows leave the training rows; good ones count as verified normal, which
lets them vouch in `reach`. Without answers is the detector as it is fitted on all of these rows, clean the one on the
train normals alone. That half of the questions are about groups, that groups have at least 5 and less than 20 % of the
rows, and that they are asked in the order of their distance to the others was chosen by seed 0 of these sets: groups
in the order of their size or of a relative distance, and groups alone, were a little worse there. So the figures are
of sets that the questions were chosen by. Groups that share a row with one that was asked about are not asked about.

Usage: python benchmarks/review.py [processes]      (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import detection
from assay.data.contamination import choose_labelled, inject
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.baselines.groups import worth_a_look
from assay.detectors.registry import make_detector
from assay.errors import PoolTooSmallError
from assay.evaluation.metrics import auprc

OUT = detection.OUT
LEVELS = (0, 0.01, 0.05, 0.1)
ANSWERS = (5, 10, 20)
AT_ONCE = 5
DETECTORS = {"reach, min-max": "reach", "knn, min-max": "knn"}
Array = np.ndarray[Any, Any]


def measure(job: tuple[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return AUPRC by level, detector and answers, and every question with its answer, of one split of one set."""
    name, seed = job
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    cache = detection.ROOT / ".assay" / "downloads"
    dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=cache)
    columns = dataset.card.columns
    parts = split_rows(dataset.data, columns, seed=seed)
    drawn = np.random.default_rng(seed).permutation(len(parts["train"]))[: detection.MOST_NORMALS]
    train = parts["train"].take(np.sort(drawn))
    tested = [parts[role] for role in ("selection", "test")]
    truth = np.concatenate([part.labels == 1 for part in tested]).astype(np.int8)
    test = np.concatenate([part.features for part in tested])
    _, rest = choose_labelled(parts["pool"], share=0.01, n_train=len(train), seed=seed)
    values, questions = [], []
    for rho in LEVELS:
        try:
            level = inject(
                train, rest, levels=[0, rho][rho == 0 :], source="pool", seed=seed, modality=TABULAR, columns=columns
            )[-1]
        except PoolTooSmallError:
            break
        rows = np.concatenate([train.features, level.injected.features])
        injected = np.arange(len(rows)) >= len(train)
        removed, good, asked = answered(rows, injected, seed)
        questions += [{"set": name, "rho": rho, "seed": seed, **each} for each in asked]
        nobody = np.zeros(len(rows), dtype=np.bool_)
        states = {"clean": (injected, nobody), "0": (nobody, nobody)}
        states |= {str(n): (removed[n], good[n]) for n in ANSWERS}
        for detector, kind in DETECTORS.items():
            for state, (left_out, normal) in states.items():
                auprc = score(kind, rows, left_out, normal, test, truth)
                left = float((left_out & injected).sum() / max(1, injected.sum()))
                lost = int((left_out & ~injected).sum())
                values.append(
                    {"set": name, "rho": rho, "seed": seed, "detector": detector, "state": state, "AUPRC": auprc}
                    | {"removed": left, "lost": lost}
                )
    return values, questions


def answered(
    rows: Array, injected: Array, seed: int
) -> tuple[dict[int, Array], dict[int, Array], list[dict[str, Any]]]:
    """Ask in rounds, and let the truth answer; return which rows are bad and good after so many answers."""
    bad, good = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    removed, kept, asked = {}, {}, []
    for _ in range(max(ANSWERS) // AT_ONCE):
        scaled = TABULAR.scaler().fit(rows[~bad]).transform(rows)
        groups, singles = worth_a_look(scaled, answered=bad | good, bad=bad, budget=AT_ONCE, seed=seed)
        for kind, items in (("group", groups), ("row", singles)):
            for item in items:
                share = float(injected[item.rows].mean())
                (bad if share >= 0.5 else good)[item.rows] = True
                asked.append({"kind": kind, "size": len(item.rows), "share": share, "answer": len(asked) + 1})
        removed[len(asked)], kept[len(asked)] = bad.copy(), good.copy()
    return removed, kept, asked


def score(kind: str, rows: Array, left_out: Array, normal: Array, test: Array, truth: Array) -> float:
    """Return the AUPRC x 100 of a detector on min-max scaled columns."""
    used = rows[~left_out]
    scaler = TABULAR.scaler().fit(used)
    detector = make_detector("rescaled", {"detector": kind}, seed=0, device="cpu")
    detector.fit(scaler.transform(used), np.where(normal[~left_out], 0, -1))
    return 100 * auprc(truth, detector.decision_function(scaler.transform(test)))


def summary(values: pd.DataFrame) -> str:
    """Format the means over the sets, with what was regained of the loss."""
    words = ["\n### AUPRC x 100, mean over the sets that reach a level (regained of what contamination took)\n"]
    states = ["0", *map(str, ANSWERS), "clean"]
    heads = ["no answers", *(f"{n} answers" for n in ANSWERS), "clean"]
    words.append(
        "| detector | rho | sets | " + " | ".join(heads) + " | worst set after 20 |\n|---|---|---|" + "---|" * 6
    )
    means = values.pivot_table("AUPRC", ["detector", "rho", "set"], "state", sort=False)
    for (detector, rho), table in means.groupby(level=["detector", "rho"], sort=False):
        mean, lost = table.mean(), (table["clean"] - table["0"]).mean()
        cells = [f"{mean[state]:.1f}" for state in states]
        if rho:
            for place, n in enumerate(ANSWERS, start=1):
                cells[place] += f" ({(mean[str(n)] - mean['0']) / lost:.0%})"
        change = (table["20"] - table["0"]).droplevel(["detector", "rho"])
        worst = f"{change.idxmin()} {change.min():+.1f}"
        words.append(f"| {detector} | {rho:g} | {len(table)} | " + " | ".join(cells) + f" | {worst} |")
    return "\n".join(words) + "\n"


def losses(values: pd.DataFrame) -> str:
    """List every set and level where answers made things worse by more than .5, in the mean over the seeds."""
    means = values.pivot_table("AUPRC", ["detector", "rho", "set"], "state", sort=False)
    lines = [
        f"- {detector}, {name}, rho {rho:g}, {n} answers: {row['0']:.1f} -> {row[str(n)]:.1f}"
        for (detector, rho, name), row in means.iterrows()
        for n in ANSWERS
        if row[str(n)] < row["0"] - 0.5
    ]
    return "\n### Where answers made it worse by more than .5\n\n" + ("\n".join(lines) or "Nowhere.") + "\n"


def of_questions(questions: pd.DataFrame, values: pd.DataFrame) -> str:
    """Format what the questions were about, and what their answers took out."""
    words = [
        "\n### The questions\n",
        "Of 20 answers in a run; rows that left are those of bad groups and bad single rows.\n",
    ]
    words.append(
        "| rho | groups asked | of these bad | rows in a group | single rows asked | of these bad | mixed groups |"
    )
    words[-1] += " injected rows that left | normals that left |\n|---|---|---|---|---|---|---|---|---|"
    runs = questions.groupby("rho")[["set", "seed"]].apply(lambda each: len(each.drop_duplicates()))
    for rho, asked in questions.groupby("rho"):
        groups, singles = (asked[asked["kind"] == kind] for kind in ("group", "row"))
        mixed = ((groups["share"] > 0.1) & (groups["share"] < 0.9)).mean()
        last = values[(values["rho"] == rho) & (values["state"] == "20")]
        words.append(
            f"| {rho:g} | {len(groups) / runs[rho]:.1f} | {(groups['share'] >= 0.5).mean():.0%} "
            f"| {groups['size'].median():.0f} | {len(singles) / runs[rho]:.1f} | {(singles['share'] >= 0.5).mean():.0%}"
            f" | {mixed:.0%} | {last['removed'].mean():.0%} | {last['lost'].mean():.1f} |"
        )
    return "\n".join(words) + "\n"


def details(values: pd.DataFrame) -> str:
    """Format one line for each set, level and detector."""
    states = ["0", *map(str, ANSWERS), "clean"]
    words = ["\n### By set: AUPRC x 100, mean and deviation over the seeds\n"]
    words.append("| set | rho | detector | no answers | 5 | 10 | 20 | clean |\n|---|---|---|---|---|---|---|---|")
    for (name, rho, detector), rows in values.groupby(["set", "rho", "detector"], sort=False):
        cells = [rows.loc[rows["state"] == state, "AUPRC"] for state in states]
        text = " | ".join(f"{cell.mean():.1f} ± {cell.std(ddof=0):.1f}" for cell in cells)
        words.append(f"| {name} | {rho:g} | {detector} | {text} |")
    return "\n".join(words) + "\n"


def picture(values: pd.DataFrame, path: Path) -> None:
    """Draw AUPRC by the number of answers, between no answers and clean."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    means = values.groupby(["detector", "rho", "set", "state"], sort=False)["AUPRC"].mean()
    for panel, rho in zip(axes, LEVELS[1:], strict=True):
        for detector, colour in zip(DETECTORS, ("#c2571a", "#2158d0"), strict=True):
            by_state = means[detector][rho].groupby("state").mean()
            line = [by_state[state] for state in ("0", *map(str, ANSWERS))]
            panel.plot((0, *ANSWERS), line, "o-", color=colour, label=detector)
            panel.axhline(by_state["clean"], color=colour, linestyle=":", linewidth=1)
        panel.set_title(f"rho {rho:g}")
        panel.set_xlabel("answers")
    axes[0].set_ylabel("AUPRC x 100 (dotted: clean)")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure everything and write docs/benchmarks/review.md and review.png."""
    jobs = [(name, seed) for seed in detection.SEEDS for name in detection.SETS]
    with ProcessPoolExecutor(int(sys.argv[1]) if len(sys.argv) > 1 else 1) as pool:
        results = list(pool.map(measure, jobs))
    values = pd.DataFrame([row for part, _ in results for row in part])
    questions = pd.DataFrame([row for _, part in results for row in part])
    tables = summary(values) + losses(values) + of_questions(questions, values) + details(values)
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    head = f"# {title}\n\n{protocol.strip()}\n\nMade by `python benchmarks/review.py`.\n\n![AUPRC](review.png)\n"
    (OUT / "review.md").write_text(head + tables, encoding="utf-8")
    picture(values, OUT / "review.png")
    print(head + tables)


if __name__ == "__main__":
    main()
