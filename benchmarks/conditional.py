"""False-positive rates that hold in every region: what even rates cost, and what hardness is best for strata.

Rows are split anew by hash for each seed, on nine public tabular sets with 5 seeds. kNN, Isolation Forest and an
autoencoder (3 members, 20 epochs) are trained on at most 1,000 clean train normals. Strata and curves are fitted on the
adapt rows, thresholds come from the calibration rows, and everything is judged on the selection and test rows together,
each copy of a repeated row included, as the promise is for rows. eps is .05. All settings are the product's defaults;
that strata of tables follow neighbourhoods, and that curves are not in the product, was decided by these tables.

Hardness is either the distance to the training mean (CADET eq 5) or that of the neighbourhood
(`assay.calibration.hardness.NeighbourhoodStrata`). The rules:

- `one threshold`: all calibration rows are one reference.
- `Mondrian`: a reference for each quartile of the hardness, which is what `within: hardness` does.
- `curves`: the score as the negative logarithm of its conditional survival given the hardness, then one reference.
  Quantile regression splines of degree 1 in the rank of the hardness with three intervals, for the levels .25, .5, .75
  and .9 of the logarithm of the score (of the score where one is not positive), with an exponential tail. It is not in
  the product: the table decides.

"worst by ..." is the highest false-positive rate of the eight bins between octiles of that hardness of the adapt rows,
"in band" the share of fits where it is below the 95 % quantile of the maximum of eight binomial rates at .05.

Usage: python benchmarks/conditional.py         (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track
from sklearn.linear_model import QuantileRegressor
from sklearn.preprocessing import SplineTransformer

from assay.calibration.adapters.outputs import observe
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.hardness import NeighbourhoodStrata, Strata
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from detection import MOST_NORMALS, SETS

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "conditional.md"
EPS = 0.05
SEEDS = range(5)
DETECTORS: dict[str, dict[str, Any]] = {
    "knn": {},
    "isolation_forest": {},
    "autoencoder": {"members": 3, "epochs": 20},
}
LEVELS = np.array([0.25, 0.5, 0.75, 0.9])
INTERVALS = 3
FEWEST_IN_BIN = 5
REDRAWS = 100
ROLES = ("adapt", "calibration", "judged")
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Measured = tuple[dict[str, Doubles], Doubles]


class Seen:
    """Scores and hardness of the rows of each role, by one detector and one hardness, and the edges of its strata."""

    def __init__(self, scores: dict[str, Doubles], hardness: Measured) -> None:
        self.scores, (self.hardness, self.edges) = scores, hardness


def one_threshold(seen: Seen) -> Flags:
    """Flag by one reference."""
    return ConformalCalibrator().fit(seen.scores["calibration"]).predict(seen.scores["judged"], EPS)


def mondrian(seen: Seen) -> Flags:
    """Flag by one reference for each quartile; where a quartile has no calibration row, flag none of its rows."""
    keys, of_judged = (np.searchsorted(seen.edges, seen.hardness[role]) for role in ("calibration", "judged"))
    flags = np.zeros(len(of_judged), dtype=bool)
    calibrated = np.isin(of_judged, keys)
    calibrator = MondrianCalibrator("stratum").fit(seen.scores["calibration"], keys)
    flags[calibrated] = calibrator.p_values(seen.scores["judged"][calibrated], of_judged[calibrated]) <= EPS
    return flags


def curves(seen: Seen) -> Flags:
    """Flag by one reference of scores transformed by their conditional distribution."""
    adapt = seen.scores["adapt"]
    least = 1e-6 * float(np.median(adapt)) if adapt.min() > 0 else 0.0
    logarithm = {r: np.log(np.maximum(s, least)) if least else s for r, s in seen.scores.items()}
    ordered = np.sort(seen.hardness["adapt"])
    ranks = {role: np.searchsorted(ordered, h) / len(ordered) for role, h in seen.hardness.items()}
    knots = np.unique(np.quantile(ranks["adapt"], np.linspace(0, 1, INTERVALS + 1)))
    centre = np.median(logarithm["adapt"])
    unit = float(np.subtract(*np.quantile(logarithm["adapt"], [0.75, 0.25]))) or 1.0
    units = {role: np.clip((values - centre) / unit, -1000, 1000) for role, values in logarithm.items()}
    basis = SplineTransformer(degree=1, knots=knots[:, None]).fit_transform(ranks["adapt"][:, None])
    regressors = [QuantileRegressor(quantile=q, alpha=0, fit_intercept=False, solver="highs-ipm") for q in LEVELS]
    at_knots = np.sort([regressor.fit(basis, units["adapt"]).coef_ for regressor in regressors], axis=0)
    survival = -np.log(1 - LEVELS)

    def transform(role: str) -> Doubles:
        places = np.clip(ranks[role], knots[0], knots[-1])
        quantiles = np.stack([np.interp(places, knots, curve) for curve in at_knots], axis=1)
        values = units[role]
        inside = [np.interp(v, q, survival) for v, q in zip(values, quantiles, strict=True)]
        slopes = np.maximum((quantiles[:, -1] - quantiles[:, -2]) / (survival[-1] - survival[-2]), 1e-3)
        above = np.maximum(values - quantiles[:, -1], 0) / slopes
        return np.asarray(inside + above + np.minimum(values - quantiles[:, 0], 0))

    return ConformalCalibrator().fit(transform("calibration")).predict(transform("judged"), EPS)


RULES: dict[str, Callable[[Seen], Flags]] = {"one threshold": one_threshold, "Mondrian": mondrian, "curves": curves}


def neighbourhood(scaled: dict[str, Any], seed: int) -> Measured:
    """Return the hardness of the rows of each role by their neighbourhood among the adapt rows, and the edges."""
    strata = NeighbourhoodStrata.fit_rows(scaled["adapt"], seed=seed)
    return {role: strata.hardness(rows) for role, rows in scaled.items()}, strata.edges


def by_mean(hardness: dict[str, Doubles]) -> Measured:
    """Return the hardness with the edges of its strata."""
    return hardness, Strata.fit(hardness["adapt"]).edges


def rates(flags: Flags, anomalous: Flags, hardness: dict[str, Measured]) -> dict[str, float]:
    """Return false-positive rate, power, and the worst of eight bins of each hardness."""
    of_rule: dict[str, float] = {"FPR": flags[~anomalous].mean()}
    for kind, (of_rows, _) in hardness.items():
        worst, in_band = worst_of_eight(flags, anomalous, of_rows)
        of_rule |= {f"worst by {kind}": worst, f"in band by {kind}": in_band}
    return of_rule | {"power": flags[anomalous].mean()}


def worst_of_eight(flags: Flags, anomalous: Flags, hardness: dict[str, Doubles]) -> tuple[float, float]:
    """Return the false-positive rate of the worst of eight bins, and whether it is in its band."""
    edges = np.unique(np.quantile(hardness["adapt"], np.arange(1, 8) / 8))
    bins = np.searchsorted(edges, hardness["judged"][~anomalous], side="left")
    sizes = np.bincount(bins, minlength=len(edges) + 1)
    by_bin = np.bincount(bins, weights=flags[~anomalous], minlength=len(edges) + 1)
    used = sizes >= FEWEST_IN_BIN
    worst = float((by_bin[used] / sizes[used]).max())
    draws = np.random.default_rng(0).binomial(sizes[used], EPS, (4000, int(used.sum()))) / sizes[used]
    return worst, float(worst <= np.quantile(draws.max(axis=1), 0.95))


def measure(name: str, seed: int) -> list[dict[str, Any]]:
    """Return the rates of every rule on one split of one set."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
    parts = split_rows(dataset.data, dataset.card.columns, seed=seed)
    train = parts["train"].features
    train = train[np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_NORMALS])]
    raw = {role: parts[role].features for role in ("adapt", "calibration")}
    raw["judged"] = np.concatenate([parts[role].features for role in ("selection", "test")])
    anomalous = np.concatenate([parts[role].labels == 1 for role in ("selection", "test")])
    modality = dataset.card.modality
    scaler = modality.scaler().fit(train)
    scaled = {role: scaler.transform(rows) for role, rows in raw.items()}
    null_model = modality.null_model().fit(scaler.transform(train))
    hardness = {
        "mean": by_mean({role: null_model.hardness(rows) for role, rows in scaled.items()}),
        "neighbourhood": neighbourhood(scaled, seed),
    }
    lines = []
    for detector_name, params in DETECTORS.items():
        detector = make_detector(detector_name, params, seed=seed, modality=modality, device="cpu")
        detector.fit(scaler.transform(train))
        outputs = {role: observe(detector, null_model, rows).scores for role, rows in scaled.items()}
        scores = {role: np.asarray(values, dtype=np.float64) for role, values in outputs.items()}
        for kind, measured in hardness.items():
            for rule, flag in RULES.items():
                row = rates(flag(Seen(scores, measured)), anomalous, hardness)
                lines.append(
                    {"set": name, "seed": seed, "detector": detector_name, "hardness": kind, "rule": rule} | row
                )
    return lines


def regions(rng: np.random.Generator, n: int, *, anomalous: bool) -> tuple[Doubles, NDArray[np.int64]]:
    """Return rows of four regions of different spread, anomalies 2.5 to 4.5 spreads out, and the regions."""
    centres, spreads = 12 * np.eye(4), np.array([0.5, 1.0, 1.0, 3.0])
    of_row = rng.integers(4, size=n)
    steps = rng.normal(size=(n, 4))
    if anomalous:
        steps *= (rng.uniform(2.5, 4.5, n) / np.linalg.norm(steps, axis=1))[:, None]
    return centres[of_row] + spreads[of_row, None] * steps, of_row


def redraw(seed: int, n_calibration: int) -> list[dict[str, Any]]:
    """Return the rates of every rule, and of the one that knows region and law of the scores, in one redraw."""
    rng = np.random.default_rng(seed)
    rows = {role: regions(rng, n, anomalous=False)[0] for role, n in (("adapt", 300), ("calibration", n_calibration))}
    train = regions(rng, 800, anomalous=False)[0]
    detector = make_detector("knn", {}, seed=seed, device="cpu").fit(train.astype(np.float32))
    normals, of_normals = regions(rng, 8000, anomalous=False)
    anomalies, of_anomalies = regions(rng, 2000, anomalous=True)
    rows["judged"] = np.concatenate([normals, anomalies])
    scaled = {role: x.astype(np.float32) for role, x in rows.items()}
    scores = {role: np.asarray(detector.decision_function(x), dtype=np.float64) for role, x in scaled.items()}
    anomalous, region = np.repeat([False, True], [8000, 2000]), np.concatenate([of_normals, of_anomalies])
    # The normals judged stand for the law of the scores in each region.
    limits = [np.quantile(scores["judged"][~anomalous & (region == r)], 1 - EPS) for r in range(4)]
    hardness = {
        "mean": by_mean({role: np.linalg.norm(x - train.mean(axis=0), axis=1) for role, x in rows.items()}),
        "neighbourhood": neighbourhood(scaled, seed),
    }
    flags = {("region", "oracle"): scores["judged"] > np.take(limits, region)}
    for kind, measured in hardness.items():
        flags |= {(kind, rule): flag(Seen(scores, measured)) for rule, flag in RULES.items()}
    lines = []
    for (kind, rule), flagged in flags.items():
        worst = max(flagged[~anomalous & (region == r)].mean() for r in range(4))
        row = {"FPR": flagged[~anomalous].mean(), "worst region": worst, "power": flagged[anomalous].mean()}
        lines.append({"m": n_calibration, "hardness": kind, "rule": rule} | row)
    return lines


def difference(table: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], value: str) -> str:
    """Say how one rule differs from another, with the standard error over the sets."""
    keys = ["set", "detector", "seed"]
    first, second = (
        table[(table["hardness"] == kind) & (table["rule"] == rule)].set_index(keys)[value].sort_index()
        for kind, rule in (one, other)
    )
    by_set = (first - second).groupby("set").mean()
    return f"{by_set.mean():+.3f} ± {by_set.std(ddof=1) / len(by_set) ** 0.5:.3f}"


def write(table: pd.DataFrame, simulated: pd.DataFrame) -> str:
    """Write conditional.md; return the text."""
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    worst = [f"worst by {kind}" for kind in ("mean", "neighbourhood")]
    values = ["FPR", *worst, *(name.replace("worst", "in band") for name in worst), "power"]
    means = table.groupby(["detector", "hardness", "rule"], sort=False)[values].mean().round(3).reset_index()
    by_set = table[table["rule"] != "curves"].pivot_table(
        "power", ["set", "detector"], ["hardness", "rule"], sort=False
    )
    of_sets = by_set.round(2).reset_index()
    of_sets.columns = [", ".join(filter(None, column)) for column in of_sets.columns]
    oracle = simulated[simulated["rule"] == "oracle"].groupby("m")["power"].mean()
    sums = (
        simulated.groupby(["m", "hardness", "rule"], sort=False)[["FPR", "worst region", "power"]].mean().reset_index()
    )
    sums["power of the oracle's"] = sums["power"] / sums["m"].map(oracle)
    plain, local, local_curves = ("mean", "Mondrian"), ("neighbourhood", "Mondrian"), ("neighbourhood", "curves")
    pairs = {
        "Mondrian by neighbourhood less Mondrian by distance to the mean": (local, plain),
        "Curves less Mondrian, both by neighbourhood": (local_curves, local),
        "Curves less Mondrian, both by distance to the mean": (("mean", "curves"), plain),
    }
    sentences = [
        f"- {words}: " + ", ".join(f"{value} {difference(table, *pair, value)}" for value in ("power", *worst)) + "."
        for words, pair in pairs.items()
    ]
    sections = [
        f"# {title}\n\n{protocol.strip()}\n\nMade by `python benchmarks/conditional.py`.",
        "## Nine sets, means\n\n" + means.to_markdown(index=False),
        "± is the standard error over the nine sets.\n\n" + "\n".join(sentences),
        "## Power by set\n\n" + of_sets.to_markdown(index=False),
        f"## Beside a rule that knows\n\n{REDRAWS} redraws: normals of four regions with spreads .5, 1, 1 and 3, "
        "anomalies 2.5 to 4.5 spreads from the centre of one; kNN on 800 rows, 300 adapt rows, m calibration rows. The "
        "oracle knows each row's region and the law of the scores there, and flags above its .95 quantile.\n\n"
        + sums.round(3).to_markdown(index=False),
    ]
    text = "\n\n".join(sections) + "\n"
    OUT.write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Measure everything and write docs/benchmarks/conditional.md."""
    import torch

    torch.set_num_threads(1)
    jobs = [(name, seed) for name in SETS for seed in SEEDS]
    table = [row for job in track(jobs, "sets", disable=not sys.stderr.isatty()) for row in measure(*job)]
    draws = [(seed, m) for m in (150, 600) for seed in range(REDRAWS)]
    made = [row for draw in track(draws, "redraws", disable=not sys.stderr.isatty()) for row in redraw(*draw)]
    print(write(pd.DataFrame(table), pd.DataFrame(made)))


if __name__ == "__main__":
    main()
