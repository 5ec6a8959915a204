"""False-positive rates where rows repeat, over redraws of the whole pipeline from the split to the p-values.

    python benchmarks/copies.py [--redraws 300] [--out docs/benchmarks/copies.md]

Two data sets: 1,000 Gaussian normals, redrawn every time, of which a fifth are one identical state away from the
others; and mammography (a public set, read from ``ASSAY_DATA_MIRROR`` where that is set), in which one row occurs
thousands of times. Every redraw is a split by another seed, then contaminate (level 0), train, calibrate and evaluate,
by the functions of `assay.pipeline`. "by content" gives all copies of a row one number, and so one role, as Assay
once did.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from assay import pipeline
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset
from assay.data.labelling import ensure_labels, labels_path
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.data.target import ensure_target, target_path
from assay.names import Choice
from assay.pipeline.candidates import Candidates
from assay.pipeline.evaluating import read_evaluation

EPS = 0.05
COLUMNS = ("a", "b", "c", "d")
HEAD = """\
# Rows that repeat

Measured by `benchmarks/copies.py`: redraws of split, contaminate (level 0), train (knn), calibrate and evaluate, by the
functions of `assay.pipeline`; eps {eps:g}. "By content" is how roles were given once. Shown are the mean false-positive
rate of the test normals with its standard error over redraws, its expectation for continuous scores, its range, the
share of redraws above .20, the mean rate over contents that no train and no adapt row has (nothing is promised for
these alone), and the power.

| data | roles | redraws | FPR | expected | range | above .20 | unseen contents | power |
|---|---|---|---|---|---|---|---|---|
"""


def gaussian(seed: int, *, n: int = 1000, n_anomalies: int = 60, share: float = 0.2) -> Dataset:
    """Return Gaussian normals of which a share are one state, and labelled anomalies."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(n, len(COLUMNS)))
    normals[rng.random(n) < share] = 2.5
    features = np.concatenate([normals, rng.normal(3, 1, size=(n_anomalies, len(COLUMNS)))]).astype(np.float32)
    labels = np.repeat(np.array([0, 1], dtype=np.int8), [n, n_anomalies])
    rows = pd.DataFrame({"row_id": [f"r-{i}" for i in range(len(labels))], "label": labels, "group": "", "time": ""})
    return Dataset(Card("states", TABULAR, COLUMNS, "made"), RowSet(features, rows))


def by_content(dataset: Dataset) -> Dataset:
    """Return the dataset with one number, and so one role, for all copies of a row."""
    return replace(dataset, data=RowSet(dataset.data.features, dataset.data.rows.assign(copy=0)))


def measure(dataset: Dataset, root: Path, *, seed: int, detector: str = "knn") -> dict[str, float]:
    """Run the pipeline from the split to the p-values in an empty folder; return what became of the test normals.

    Returns
    -------
    dict
        ``fpr`` at `EPS`, its mean over calibration sets ``expected`` (continuous scores), ``power``, the numbers of
        normals ``n`` and of calibration rows ``m``, and ``unseen_fpr`` over contents that training has not seen.
    """
    name = dataset.card.name
    data, split, contaminated = root / name, root / "split", root / "contaminate"
    trained, calibrated = root / "train" / detector, root / "calibrate" / detector
    write_dataset(data, dataset)
    ensure_labels(root, name)
    ensure_target(root, name)
    choice, checkpoints = Choice(detector, detector), root / "checkpoints"
    candidates = Candidates((choice,), (Choice("none", "none"),))
    pipeline.split(split, data=data, quarantine=root / "none.csv", answers=root / "none.csv", seed=seed, source="auto")
    plan = {"levels": [0.0], "source": "auto", "labelled": 0.0, "seed": seed}
    pipeline.contaminate(contaminated, card=data, train=split / "train", pool=split / "pool", **plan)
    fit = {"detector": choice, "seed": 0, "device": "cpu", "checkpoints": checkpoints / "train"}
    pipeline.train(trained, card=data, train=split / "train", contaminated=contaminated, **fit)
    roles = {"adapt": split / "adapt", "calibration": split / "calibration", "split": split / "split.json"}
    people = {"labels": labels_path(root, name), "target": target_path(root, name)}
    how = {
        "within": "all",
        "ties": "counted",
        "promise": "average",
        "seed": 0,
        "checkpoints": checkpoints / "calibrate",
    }
    used = {"trained": trained, "detector": choice, "adapters": candidates.adapters}
    pipeline.calibrate(calibrated, card=data, **used, **roles, **people, **how)
    cells = {"trained": {detector: trained}, "calibrated": {detector: calibrated}}
    pipeline.evaluate(root / "evaluate", test=split / "test", candidates=candidates, eps=EPS, **cells)
    evaluation = read_evaluation(root / "evaluate")
    (row,) = evaluation.candidates
    m = row.n_calibration
    return {
        "fpr": row.fpr,
        "expected": np.floor((m + 1) * EPS) / (m + 1),
        "power": row.power,
        "n": evaluation.n_normals,
        "m": m,
        "unseen_fpr": np.nan if row.unseen is None or row.unseen.fpr is None else row.unseen.fpr,
    }


def table(redraws: int) -> list[str]:
    """Return a line of the table for each data set and way to give roles, by content with a third of the redraws."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    with tempfile.TemporaryDirectory() as cache:
        mammography = load_named("mammography", mirror=Path(mirror) if mirror else None, cache=Path(cache))
    lines = []
    for name, make in (("Gaussian, a fifth one state", gaussian), ("mammography", lambda seed: mammography)):
        for way, change in (("by copy", lambda dataset: dataset), ("by content", by_content)):
            found = []
            for seed in range(redraws if way == "by copy" else redraws // 3):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(measure(change(make(seed)), Path(folder), seed=seed))
            lines.append(line(name, way, pd.DataFrame(found)))
            print(lines[-1], flush=True)
    return lines


def line(name: str, way: str, rates: pd.DataFrame) -> str:
    """Return a line of the table from the results of all redraws."""
    fpr = rates["fpr"]
    cells = (
        f"{len(fpr)}",
        f"{fpr.mean():.4f} ± {fpr.std() / np.sqrt(len(fpr)):.4f}",
        f"{rates['expected'].mean():.4f}",
        f"{fpr.min():.3f} to {fpr.max():.3f}",
        f"{(fpr > 0.2).mean():.1%}",
        f"{rates['unseen_fpr'].mean():.3f}",
        f"{rates['power'].mean():.3f}",
    )
    return f"| {' | '.join((name, way, *cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redraws", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/copies.md"))
    arguments = parser.parse_args()
    with threadpool_limits(1):
        lines = table(arguments.redraws)
    arguments.out.write_text(HEAD.format(eps=EPS) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
