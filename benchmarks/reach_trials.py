"""What was tried with `reach`: several shares, verified rows that vouch, and codes of an autoencoder.

Protocol as in ships.md, on min-max scaled rows: AUPRC x 100, mean over the sets that reach a level, and what
a variant adds to what it is measured beside: mean over the sets, with the standard error over them, and the
sets where it adds most and least. The rule of the shares was fixed on the nine sets and judged once on the
held-out ones (at most 800 test normals and 400 anomalies each). Not every set has every seed.

Shares: `share s` takes groups up to a share s of the rows for doubtful; `mean` is the mean of the reach by
.02, .05 and .1; `chain` takes the next wider one of .02, .05, .1 and .2 where it is at least 1.5 times the
one before; `gap g` takes those by .1 and .2 where they are at least g times the median distance to the fifth
neighbour, else that by .05 (`gap 2 to .3`: .3 besides). What is built is `share 0.05`. `none` is k nearest
neighbours. Vouching: 20 or 100 random train normals are labelled normal; built is that these alone have reach
0, tried that groups of at least five rows with one of them have, too. Codes: `reach` of the standardised
codes of all members of the default autoencoder.

Usage: python benchmarks/reach_trials.py shares|vouch|codes nine|held_out SEED...
       python benchmarks/reach_trials.py     (ASSAY_DATA_MIRROR; writes the page of what .assay/reach_trials holds)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from assay.data.contamination import rows_added
from assay.data.modalities.tabular import TABULAR
from assay.detectors.base import latent_codes
from assay.detectors.baselines.reach import ReachDistances, _reach, spanning_tree
from assay.detectors.registry import make_detector
from ships import LEVELS, ranking, rows_of
from ships_sets import LISTS, NINE, ROOT

OUT, CACHE = ROOT / "docs" / "benchmarks" / "reach_trials.md", ROOT / ".assay" / "reach_trials"
K, SHARES, GAPS = 5, (0.02, 0.05, 0.1, 0.2, 0.3), (1.5, 2, 2.5, 3)
MOST = {"test": 800, "test_anom": 400}
BESIDE = {"shares": "share 0.05", "vouch": "reach", "codes": "reach"}
TITLES = {"shares": "Several shares at once", "vouch": "Verified rows that vouch", "codes": "In a latent space"}
CAME_OF_IT = """## What came of it

- **Several shares are not built in.** By these tables they cost nothing: `gap 2.5` adds 11 to 44 points on shuttle at
  rho .1, in every seed, changes no other of the nine sets by more than .1, and the held-out ones by -.1 on average
  (SKAB by -5 to +3 from seed to seed). But a second kind of normal rows looks like contaminants that stand well apart.
  No set here has one. AI4I with its types (the rare one is on a tenth of the rows; one-hot, three seeds, clean
  training rows): AUPRC .45 with a share of .05, .26 with `gap 2.5`; power at eps .05 .32 to .35, and 0.
  All rows of the rare type have the highest scores, and no anomaly that stands less far apart is flagged.
- A kind of normal rows on less than a twentieth of the rows costs `reach` in the same way today, by its smaller share
  of the calibration rows.
- A plain share of .1 gains the same on shuttle and 16 points on ECG5000 at rho .1, and costs 1.3 on pendigits
  and .6 on satellite. By the nine sets it is the worse rule; that it is the better one on the held-out sets
  was seen only after the rule was fixed. Where there are many columns distances are alike, and no group
  stands 2.5 times apart.
- **Groups that vouch as a whole where one row of them is verified** add .1 to what verified rows add alone.
  Not built.
- **`reach` in the latent space of the autoencoder** is 13 points below `reach` on the columns (one seed), and
  above it on none of six sets; it is above the autoencoder itself. Not built."""
Array = NDArray[Any]


def by_shares(scaled: Array) -> dict[str, Array]:
    """Return the reach of rows by every variant."""
    first, second, lengths, core = spanning_tree(scaled.astype(np.float64), K)
    by = {share: _reach(first, second, lengths, share * len(scaled)) for share in SHARES}
    usual = np.median(core)
    variants = {f"share {share:g}": by[share] for share in (0.05, 0.1, 0.2)}
    variants["mean"] = np.mean([by[share] for share in (0.02, 0.05, 0.1)], axis=0)
    chain = by[0.02]
    for share in (0.05, 0.1, 0.2):
        chain = np.where(by[share] >= 1.5 * np.maximum(chain, usual), by[share], chain)
    variants["chain"] = chain
    for gap in GAPS:
        variants[f"gap {gap:g}"] = _wider(by, (0.1, 0.2), gap * usual)
    variants["gap 2 to .3"] = _wider(by, (0.1, 0.2, 0.3), 2 * usual)
    return {**variants, "none": np.zeros(len(scaled))}


def _wider(by: dict[float, Array], shares: tuple[float, ...], least: float) -> Array:
    reach = by[0.05]
    for share in shares:
        reach = np.where(by[share] >= least, np.maximum(by[share], reach), reach)
    return reach


def shares(train: Array, tested: Array, seed: int, n_normals: int) -> Iterator[tuple[str, Array]]:
    """Yield the scores of tested rows by the variants of the shares."""
    detector = make_detector("rescaled", {"detector": "knn"}, seed=seed).fit(train)
    rows, asked = detector._scaled(train), detector._scaled(tested)  # type: ignore[attr-defined]
    variants = by_shares(rows)
    parts: dict[str, list[Array]] = {name: [] for name in variants}
    for start in range(0, len(asked), 2_000):
        distances = cdist(asked[start : start + 2_000].astype(np.float64), rows.astype(np.float64))
        for name, reach in variants.items():
            parts[name].append(np.partition(np.maximum(distances, reach), K - 1, axis=1)[:, K - 1])
    yield from ((name, np.concatenate(each)) for name, each in parts.items())


def vouch(train: Array, tested: Array, seed: int, n_normals: int) -> Iterator[tuple[str, Array]]:
    """Yield the scores of tested rows by `reach` with and without verified rows."""
    plain = make_detector("rescaled", {"detector": "reach"}, seed=seed).fit(train)
    yield "reach", plain.decision_function(tested)
    reach, rows = plain.detector_.form_.reach, plain.detector_.form_.rows  # type: ignore[attr-defined]
    values, counts = np.unique(reach, return_counts=True)
    rng = np.random.default_rng(seed + 7)
    for n in (20, 100):
        picked = rng.choice(n_normals, min(n, n_normals), replace=False)
        of_groups = np.where(np.isin(reach, np.intersect1d(reach[picked], values[counts >= K])), 0, reach)
        for name, changed in (("rows", reach.copy()), ("groups", of_groups)):
            changed[picked] = 0
            asked = plain._scaled(tested)  # type: ignore[attr-defined]
            yield f"{n} verified, their {name} vouch", ReachDistances(rows, changed, K).score(asked)


def codes(train: Array, tested: Array, seed: int, n_normals: int) -> Iterator[tuple[str, Array]]:
    """Yield the scores of tested rows by `reach` on columns and on codes."""
    yield "reach", make_detector("rescaled", {"detector": "reach"}, seed=seed).fit(train).decision_function(tested)
    network = make_detector("autoencoder", {}, seed=seed, device="cpu").fit(train)
    yield "autoencoder", network.decision_function(tested)
    flat = [latent_codes(network, rows).transpose(1, 0, 2).reshape(len(rows), -1) for rows in (train, tested)]
    spread = flat[0].std(axis=0) + 1e-9
    of_train, of_tested = (((each - flat[0].mean(axis=0)) / spread).astype(np.float32) for each in flat)
    for kind in ("reach", "knn"):
        yield f"{kind} of codes", make_detector(kind, {}, seed=seed).fit(of_train).decision_function(of_tested)


def measure(trial: str, name: str, seed: int) -> pd.DataFrame:
    """Return AUPRC by level and variant."""
    rows, unlabelled, _ = rows_of(name, seed)
    if name not in NINE:
        rows |= {role: rows[role][:most] for role, most in MOST.items()}
    tested, results = np.concatenate([rows["test"], rows["test_anom"]]), []
    for rho in LEVELS:
        if (n := rows_added(float(rho), len(rows["train"]))) <= len(unlabelled):
            train = np.concatenate([rows["train"], unlabelled[:n]])
            scaler = TABULAR.scaler().fit(train)
            scaled = (scaler.transform(train), scaler.transform(tested))
            for variant, scores in TRIALS[trial](*scaled, seed, len(rows["train"])):
                of = {"test": scores[: len(rows["test"])], "test_anom": scores[len(rows["test"]) :]}
                results.append({"set": name, "seed": seed, "rho": rho, "variant": variant} | ranking(of))
    return pd.DataFrame(results)


def section(trial: str, where: str, results: pd.DataFrame) -> str:
    """Return the table of a trial on a list of sets."""
    reference = BESIDE[trial]
    by_set = results.pivot_table("AUPRC", ["set", "rho"], "variant", sort=False)
    lines = []
    for variant in by_set:
        change = (by_set[variant] - by_set[reference]).groupby("set").mean()
        means = {f"rho {rho:g}": f"{rows[variant].mean():.1f}" for rho, rows in by_set.groupby("rho")}
        ends = {"most": f"{change.idxmax()} {change.max():+.1f}", "least": f"{change.idxmin()} {change.min():+.1f}"}
        lines.append({"variant": variant} | means | {"adds": f"{change.mean():+.2f} ± {change.sem():.2f}"} | ends)
    table = pd.DataFrame(lines).to_markdown(index=False)
    sets, seeds = results["set"].nunique(), results["seed"].nunique()
    return f"## {TITLES[trial]}: {where.replace('_', '-')}, {sets} sets, {seeds} seeds, beside `{reference}`\n\n{table}"


def write() -> str:
    """Write the page of what was measured."""
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    words = [f"# {title}\n\n{protocol.strip()}\n\nMade by `python benchmarks/reach_trials.py`.", CAME_OF_IT]
    for trial in TRIALS:
        for where, sets in LISTS.items():
            paths = sorted(path for path in CACHE.glob(f"{trial}.*.csv") if path.name.split(".")[1] in sets)
            if paths:
                words.append(section(trial, where, pd.concat([pd.read_csv(path) for path in paths])))
    OUT.write_text("\n\n".join(words) + "\n", encoding="utf-8")
    return "\n\n".join(words)


TRIALS = {"shares": shares, "vouch": vouch, "codes": codes}


def main() -> None:
    """Measure a trial, or write docs/benchmarks/reach_trials.md."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for seed in sys.argv[3:]:
        for name in LISTS[sys.argv[2]]:
            path = CACHE / f"{sys.argv[1]}.{name}.{seed}.csv"
            if not path.is_file():
                measure(sys.argv[1], name, int(seed)).to_csv(path, index=False)
                print(path.name, flush=True)
    if len(sys.argv) < 2:
        print(write())


if __name__ == "__main__":
    main()
