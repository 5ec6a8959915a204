"""What ships: without labels, with ten and with fifty, clean and contaminated, beside fixed methods.

Two lists of sets have one protocol: nine public tables by which the default was chosen (`nine`, ships.md), and twelve
others by which nothing was (`held_out`, held_out.md).

Usage: python benchmarks/ships.py nine|held_out [seeds]     (ASSAY_DATA_MIRROR; goes on where it stopped, from
.assay/ships; several processes at once may measure seeds of their own: `ships.py nine 3 --only 2`)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from assay.calibration.calibrators.ranks import largest_rank
from assay.data.contamination import make_probe_rows, rows_added
from assay.data.modalities.tabular import TABULAR
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from assay.errors import TrainingError
from assay.evaluation.chances import FlagRule, flag_chances
from assay.evaluation.metrics import auprc, auroc
from assay.evaluation.paired import RowScores
from assay.evaluation.rates import rate_band
from assay.evaluation.selection import Candidate, select_candidate
from ships_page import DEFAULT, FIFTY, NONE, TEN, WIDER, write
from ships_sets import LISTS, NINE, ROOT, load

CACHE = ROOT / ".assay" / "ships"
LEVELS, EPS = (0, 0.01, 0.05, 0.1), 0.05
SIZES = {"train": 1000, "adapt": 342, "calibration": 368, "selection": 342}
LABELLED, SHARE = {"sel_anom": 9, "pool": 25}, 0.3
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", {}),
    "isolation_forest": ("isolation_forest", {}),
    "knn": ("knn", {}),
    "mcd": ("mcd", {}),
    DEFAULT: ("rescaled", {"detector": "reach"}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn-minmax": ("rescaled", {"detector": "knn"}),
    WIDER: ("rescaled", {"detector": {"reach": {"share": 0.1}}}),
}
Rows = dict[str, NDArray[Any]]


def candidates_of(name: str) -> tuple[str, ...]:
    """Return the candidates on a set: the autoencoder takes too long on the wide ones of those kept aside."""
    return tuple(CANDIDATES) if name in NINE else tuple(each for each in CANDIDATES if each != "autoencoder")


def stresses_of(name: str) -> tuple[float, ...]:
    """Return the levels of the stress test that candidates are trained at."""
    return (0, 0.01) if name in NINE else (0,)


def rows_of(name: str, seed: int) -> tuple[Rows, NDArray[Any], bool]:
    """Return the rows by role, the pool anomalies that nobody labels, and whether probes veto the default."""
    data, columns = load(name)
    parts, rng = split_rows(data, columns, seed=seed), np.random.default_rng(seed)
    rows = {}
    for role, most in SIZES.items():
        normals = parts[role].features[parts[role].labels != 1]
        rows[role] = normals[rng.permutation(len(normals))[:most]]
    pool = parts["pool"].features[parts["pool"].labels == 1]
    pool = pool[rng.permutation(len(pool))]
    n_labelled = min(LABELLED["pool"], int(SHARE * len(pool)))
    rows["pool"], unlabelled = pool[len(pool) - n_labelled :], pool[: len(pool) - n_labelled]
    anomalies = parts["selection"].features[parts["selection"].labels == 1]
    rows["sel_anom"] = anomalies[rng.permutation(len(anomalies))[: LABELLED["sel_anom"]]]
    for role, label in (("test", False), ("test_anom", True)):
        rows[role] = np.concatenate([p.features[(p.labels == 1) == label] for p in (parts["gate"], parts["test"])])
    chosen_rows = parts["selection"].take(parts["selection"].labels != 1)
    probes = make_probe_rows(
        chosen_rows,
        recipes=[recipe for recipe in TABULAR.recipes if recipe != TABULAR.default_recipe],
        n=max(60, len(chosen_rows) // 5),
        seed=1_000 * (seed + 1) + 1,
        columns=columns,
        modality=TABULAR,
    ).features
    score = fitted(DEFAULT, rows["train"], seed)
    chances = chances_of(score(rows["selection"]), score(probes), len(rows["calibration"]))
    return rows, unlabelled, bool(chances.anomalies.mean() <= chances.normals.mean())


def fitted(candidate: str, train: NDArray[Any], seed: int) -> Any:
    """Return the function that scores rows by a candidate fitted on rows, with its scaler."""
    kind, params = {**CANDIDATES, **OTHERS}[candidate]
    scaler = TABULAR.scaler().fit(train)
    detector = make_detector(kind, params, seed=seed, device="cpu").fit(scaler.transform(train))
    return lambda rows: detector.decision_function(scaler.transform(rows))


def scores(name: str, seed: int) -> dict[str, NDArray[Any]]:
    """Return the scores of all rows but the train rows, by "rho|stress|candidate|role", from the cache or anew."""
    path = CACHE / f"{name}.{seed}.npz"
    arrays: dict[str, NDArray[Any]] = dict(np.load(path)) if path.is_file() else {}
    own, stresses = candidates_of(name), stresses_of(name)
    wanted = {f"{rho}|0|{candidate}|done" for rho in LEVELS for candidate in (*own, *OTHERS)}
    wanted |= {f"{rho}|{stress}|{candidate}|done" for rho in LEVELS for stress in stresses for candidate in own}
    if not (missing := wanted - arrays.keys()):
        return arrays
    rows, unlabelled, vetoed = rows_of(name, seed)
    arrays["vetoed"] = np.array(vetoed)
    for job in sorted(missing):
        rho, stress, candidate, _ = job.split("|")
        n, n_stress = (rows_added(float(share), len(rows["train"])) for share in (rho, stress))
        if n <= len(unlabelled) and n_stress <= len(rows["pool"]):
            train = np.concatenate([rows["train"], unlabelled[:n], rows["pool"][:n_stress]])
            try:
                score = fitted(candidate, train, seed)
                arrays |= {f"{rho}|{stress}|{candidate}|{role}": score(rows[role]) for role in rows.keys() - {"train"}}
            except TrainingError:
                pass  # mcd takes at most 262 columns
        arrays[job] = np.array(True)
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return arrays


def chances_of(normals: NDArray[Any], anomalies: NDArray[Any], m: int) -> Any:
    """Return the chances that a scorer with m calibration rows flags rows."""
    return flag_chances(normals, anomalies, FlagRule("conformal", "nothing", {"all": m}), EPS)


def chosen(by: dict[tuple[float, str], Rows], *, default: str, labels: int = 50) -> str:
    """Return what selection chooses by up to 50 labels, or by 10, "" for nothing.

    `by` has the scores by stress level and candidate.
    """
    judge = {role: slice(round(most * labels / 50)) for role, most in LABELLED.items()}
    pool = []
    for position, candidate in enumerate(name for name in CANDIDATES if (0, name) in by):
        chances, ranked = {}, {}
        for stress in sorted({level for level, name in by if name == candidate}):
            rows = by[stress, candidate]
            anomalies = np.concatenate(
                [rows[role][judge[role]] for role in ("sel_anom", *([] if stress else ["pool"]))]
            )
            chances[float(stress)] = chances_of(rows["selection"], anomalies, len(rows["calibration"]))
            ranked[float(stress)] = RowScores(rows["selection"], anomalies)
        pool.append(Candidate(candidate, "none", position, 100, chances, scores=ranked))
    most = max(len(chances.anomalies) for chances in pool[0].chances.values())
    keys = np.array([f"anomaly {i}" for i in range(most)], dtype=object)
    strata = {level: np.zeros(len(chances.normals), dtype=np.int64) for level, chances in pool[0].chances.items()}
    choice = select_candidate(pool, anomaly_keys=keys, strata=strata, eps=EPS, seed=0, default=default).chosen
    return choice.detector if choice else ""


def measure(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ranking and false-positive rate of what ships and of the fixed methods, at every level."""
    arrays = scores(name, seed)
    for rho in LEVELS:
        by: dict[tuple[float, str], Rows] = {}
        for key, values in arrays.items():
            if key.startswith(f"{rho}|") and not key.endswith("|done"):
                _, stress, candidate, role = key.split("|")
                by.setdefault((float(stress), candidate), {})[role] = values
        if not by:
            continue
        fixed = {candidate: rows for (stress, candidate), rows in by.items() if not stress}
        unlabelled = "" if arrays["vetoed"] else DEFAULT
        ships = {
            NONE: unlabelled,
            "ships, 10 labels": unlabelled,
            FIFTY: chosen(by, default=DEFAULT),
            "highest power by 50 labels": chosen(by, default=""),
            TEN["by the rule"]: chosen(by, default=DEFAULT, labels=10),
            TEN["by the highest power"]: chosen(by, default="", labels=10),
        }
        shown = {**{what: fixed[which or DEFAULT] for what, which in ships.items()}, **fixed}
        for method, rows in shown.items():
            yield {"set": name, "seed": seed, "rho": rho, "method": method, "which": ships.get(method, method)} | rates(
                rows
            )


def ranking(rows: Rows) -> dict[str, float]:
    """Return AUPRC and AUROC x 100 of the test rows."""
    truth = np.repeat([0, 1], [len(rows["test"]), len(rows["test_anom"])]).astype(np.int8)
    both = np.concatenate([rows["test"], rows["test_anom"]])
    return {"AUPRC": 100 * auprc(truth, both), "AUROC": 100 * auroc(truth, both)}


def rates(rows: Rows) -> dict[str, Any]:
    """Return how test rows are ranked, the false-positive rate at eps .05, and whether that is in its 95 % band."""
    calibration = np.sort(rows["calibration"])
    m, n, rank = len(calibration), len(rows["test"]), largest_rank(len(calibration), EPS)
    fpr = float((m - np.searchsorted(calibration, rows["test"], side="left") < rank).mean())
    low, high = rate_band((n,), (rank,), (m,))
    return ranking(rows) | {"FPR": fpr, "expected": rank / (m + 1), "inside": low <= fpr <= high}


def main() -> None:
    """Measure everything and write the page of a list."""
    which, seeds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    jobs = [(name, seed) for seed in range(seeds) for name in LISTS[which]]
    bar = partial(track, description="jobs", disable=not sys.stderr.isatty())
    if "--only" in sys.argv:
        for name, seed in jobs:
            if seed == int(sys.argv[-1]):
                scores(name, seed)
        return
    print(write(which, pd.DataFrame([row for job in bar(jobs) for row in measure(*job)])))


if __name__ == "__main__":
    main()
