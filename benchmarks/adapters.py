"""Score adapters: what CADET, ARES and a mean of them do to ranking, to power and to false positives.

Protocol: the rows are split anew by hash for each seed: nine public tabular sets (optdigits as images) and
ECG5000 (as series) with 3 seeds, three classes each of MNIST and Fashion-MNIST with one. Detectors are trained on at
most 1,000 clean train normals, adapters fitted on the adapt rows, thresholds taken from the calibration rows, and
everything is judged on the selection and test rows together (25 % of the normals, 36 % of the anomalies), rows of
equal content once: a row of mammography has 3,329 copies, three tenths of its normals. All
settings are the product's defaults, but for the autoencoder on MNIST and Fashion-MNIST, whose convolutional form has
3 members and 20 epochs here to save time. No setting was chosen by labels of these rows, with these exceptions: cardio
and thyroid served as development sets for the activation of the autoencoder and the prior weight of CADET, and digits
of scikit-learn, which are among those of optdigits, for the convolutional autoencoder. A change is called clear
where it is more than two standard errors over the seeds.

The adapters:

- `cadet`: the norm of the error, as in the paper; `cadet square`: its square, as it was before but for the ends of the
  hardness, which are cut off now (for the autoencoder; scores that are no squares are the same for both); `cadet log`:
  logarithms of error and hardness; `no prior`: the same without the prior term.
- `ares`: adapt rows are labelled normal, as they are here, and k is 10; `ares unlabelled`: nobody has labelled them,
  and k is made for 5 % of anomalies, of which there are none here: what that costs.
- `mean`: of the plain score, `ares` and `cadet log`, each as the negative logarithm of its survival function on the
  half of the adapt rows that it was not fitted on, with a linear tail beyond (the mean excess of the top tenth). It is
  not in the product: the table decides.
- `mondrian`: the plain score with a reference for each hardness quartile.

Usage: python benchmarks/adapters.py            (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr

from assay.calibration.adapters.ares import Ares
from assay.calibration.adapters.cadet import Cadet
from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.adapters.registry import Identity, ScoreAdapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.hardness import Strata
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from assay.evaluation.metrics import auroc
from detection import SETS as TABLES

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks"
EPS = 0.05
MOST_NORMALS = 1_000
IMAGES = tuple(f"{name}-{normal}" for name in ("mnist", "fashion-mnist") for normal in (0, 3, 6))
JOBS = [(name, seed) for name in (*TABLES, "ecg5000") for seed in range(3)] + [(name, 0) for name in IMAGES]
DETECTORS = ("autoencoder", "knn", "isolation_forest")
SEVEN = ("cardio", "mammography", "optdigits", "pendigits", "satellite", "satimage-2", "thyroid")
QUICK = {"members": 3, "epochs": 20}
ROLES = ("calibration", "judged")
QUARTILES = [f"FPR {number}" for number in range(4)]

Found = list[dict[str, Any]]


def measure(name: str, seed: int) -> Found:
    """Return what every adapter does to every detector on one split of one set."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
    card = dataset.card
    parts = split_rows(dataset.data, card.columns, seed=seed)
    train = parts["train"].features
    train = train[np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_NORMALS])]
    raw = {role: parts[role].features for role in ("adapt", "calibration")}
    judged = np.concatenate([parts[role].features for role in ("selection", "test")])
    raw["judged"], first = np.unique(judged, axis=0, return_index=True)
    anomalous = np.concatenate([parts[role].labels == 1 for role in ("selection", "test")])[first]
    scaler = card.modality.scaler().fit(train)
    scaled = {role: scaler.transform(rows) for role, rows in raw.items()}
    null_model = card.modality.null_model().fit(scaler.transform(train))
    found = []
    for detector_name in DETECTORS:
        params = QUICK if name in IMAGES and detector_name == "autoencoder" else {}
        detector = make_detector(detector_name, params, seed=seed, modality=card.modality, device="cpu")
        detector.fit(scaler.transform(train))
        outputs = {role: _remember(observe(detector, null_model, rows)) for role, rows in scaled.items()}
        outputs["adapt"] = replace(outputs["adapt"], unlabelled=0.0)
        for row in judge(outputs, anomalous, seed):
            found.append({"set": name, "seed": seed, "detector": detector_name, **row})
    return found


def _remember(outputs: Outputs) -> Outputs:
    return replace(outputs, latents=cache(outputs.latents))


def judge(outputs: dict[str, Outputs], anomalous: NDArray[np.bool_], seed: int) -> Found:
    """Return what every adapter does to one detector's outputs."""
    plain = {role: replace(of_role, squared=False) for role, of_role in outputs.items()}
    unlabelled = {**outputs, "adapt": replace(outputs["adapt"], unlabelled=1.0)}
    candidates: dict[str, tuple[ScoreAdapter, dict[str, Outputs]]] = {
        "none": (Identity(), outputs),
        "cadet square": (Cadet(), plain),
        "cadet": (Cadet(), outputs),
        "cadet log": (Cadet(error="log"), outputs),
        "cadet log, no prior": (Cadet(error="log", prior_weight=0), outputs),
        "ares": (Ares(), outputs),
        "ares unlabelled": (Ares(), unlabelled),
    }
    adapted = {
        name: tuple(adapter.fit(seen["adapt"]).transform(seen[role]) for role in ROLES)
        for name, (adapter, seen) in candidates.items()
    }
    adapted["mean"] = mean_of_survivals(outputs, seed)
    hardness = {role: np.asarray(outputs[role].hardness, dtype=np.float64) for role in ("adapt", *ROLES)}
    strata = Strata.fit(hardness["adapt"])
    where = {role: strata.assign(outputs[role].scores, hardness[role]) for role in ROLES}
    found = []
    for name, (reference, scores) in adapted.items():
        flags = ConformalCalibrator().fit(reference).predict(scores, EPS)
        row = _rates(flags, anomalous, where["judged"]) | {"adapter": name}
        row["AUROC"] = 100 * auroc(anomalous.astype(np.int8), scores)
        row["correlation"] = float(spearmanr(scores[~anomalous], hardness["judged"][~anomalous]).statistic)
        found.append(row)
        if name == "none":
            by_stratum = MondrianCalibrator("stratum").fit(reference, where["calibration"])
            flags = by_stratum.p_values(scores, where["judged"]) <= EPS
            found.append(_rates(flags, anomalous, where["judged"]) | {"adapter": "mondrian"})
    return found


def mean_of_survivals(outputs: dict[str, Outputs], seed: int) -> tuple[NDArray[np.float64], ...]:
    """Return the mean of the negative log survival of three adapted scores, for the rows of each of `ROLES`."""
    order = np.random.default_rng(seed).permutation(len(outputs["adapt"]))
    fitted_on, held_out = (_take(outputs["adapt"], np.sort(order[number::2])) for number in range(2))
    total = [np.zeros(len(outputs[role])) for role in ROLES]
    adapters: tuple[ScoreAdapter, ...] = (Identity(), Ares(), Cadet(error="log"))
    for adapter in adapters:
        fitted = adapter.fit(fitted_on)
        known = np.sort(fitted.transform(held_out))
        for role, sums in zip(ROLES, total, strict=True):
            sums += _log_survival(known, fitted.transform(outputs[role])) / len(adapters)
    return tuple(total)


def _take(outputs: Outputs, picked: NDArray[np.intp]) -> Outputs:
    latents = outputs.latents()[:, picked]
    return replace(outputs, scores=outputs.scores[picked], measured=outputs.hardness[picked], latents=lambda: latents)


def _log_survival(known: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log P(S >= s) of scores by known ones in increasing order, with a linear tail above the highest."""
    m, top = known.size, max(2, known.size // 10)
    values = np.interp(scores, known, np.log((m + 1) / (m - np.arange(m))))
    excess = float((known[-top:] - known[-top]).mean()) or 1.0
    return np.asarray(values + np.maximum(scores - known[-1], 0) / excess)


def _rates(flags: NDArray[np.bool_], anomalous: NDArray[np.bool_], strata: NDArray[np.int64]) -> dict[str, Any]:
    rates = {f"FPR {s}": 100 * flags[~anomalous & (strata == s)].mean() for s in np.unique(strata[~anomalous])}
    worst = {"gap": max(rates.values()) - min(rates.values()), "worst stratum FPR": max(rates.values())}
    return rates | worst | {"FPR": 100 * flags[~anomalous].mean(), "power": 100 * flags[anomalous].mean()}


def fit_seconds(n_rows: int) -> float:
    """Return how long CADET takes to fit on so many rows; the rows that it does not need are left out at once."""
    rng = np.random.default_rng(0)
    hardness = rng.gamma(3, 1, n_rows)
    outputs = Outputs(hardness * (1 + 0.3 * rng.standard_normal(n_rows)), hardness)
    Cadet().fit(Outputs(outputs.scores[:100], hardness[:100]))
    started = time.perf_counter()
    Cadet().fit(outputs)
    return time.perf_counter() - started


def collect(found: Found, value: str) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return a value's measurements, one for each seed, by set and detector and then by adapter."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in found:
        if value in row:
            values.setdefault((row["set"], row["detector"]), {}).setdefault(row["adapter"], []).append(row[value])
    return values


def changes(found: Found, value: str) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Return mean and standard error of the change from "none"; the error is infinite for one seed."""
    summary: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for key, own in collect(found, value).items():
        for adapter in own.keys() - {"none"}:
            paired = np.subtract(own[adapter], own["none"])
            error = float(paired.std(ddof=1) / np.sqrt(paired.size)) if paired.size > 1 else np.inf
            summary.setdefault(key, {})[adapter] = float(paired.mean()), error
    return summary


def mean_table(found: Found, value: str, adapters: list[str], form: str) -> str:
    """Format the means over seeds of a value: a line for each set and detector, a column for each adapter."""
    lines = ["| set | detector | " + " | ".join(adapters) + " |", "|---" * (2 + len(adapters)) + "|"]
    means = {key: [np.mean(own[a]) for a in adapters] for key, own in collect(found, value).items()}
    for (name, detector), row in means.items():
        lines.append(f"| {name} | {detector} | " + " | ".join(f"{x:{form}}" for x in row) + " |")
    for detector in DETECTORS:
        overall = np.mean([row for key, row in means.items() if key[1] == detector], axis=0)
        lines.append(f"| **mean** | {detector} | " + " | ".join(f"**{x:{form}}**" for x in overall) + " |")
    return "\n".join(lines) + "\n"


def change_table(found: Found, value: str, adapters: list[str]) -> str:
    """Format "none" and the changes from it; those of more than two standard errors in bold."""
    head = ["set", "detector", "none", *adapters]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    plain, table = collect(found, value), changes(found, value)
    for (name, detector), own in table.items():
        cells = [f"{np.mean(plain[name, detector]['none']):.1f}"]
        for change, error in (own[adapter] for adapter in adapters):
            words = f"{change:+.1f}" + (f" ± {error:.1f}" if np.isfinite(error) else "")
            cells.append(f"**{words}**" if abs(change) > 2 * error else words)
        lines.append(f"| {name} | {detector} | " + " | ".join(cells) + " |")
    cells = [f"**{np.mean([own['none'] for own in plain.values()]):.1f}**"]
    cells += [f"**{np.mean([own[a][0] for own in table.values()]):+.1f}**" for a in adapters]
    lines.append("| **mean** | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(found: Found, detector: str, adapters: list[str]) -> str:
    """Format the means over the fits of a detector on the seven sets, with the standard error of each change."""
    values = ("AUROC", "power", "FPR", "worst stratum FPR")
    own = [row for row in found if row["set"] in SEVEN and row["detector"] == detector]
    lines = ["| adapter | " + " | ".join(values) + " |", "|---" * (1 + len(values)) + "|"]
    for adapter in adapters:
        cells = []
        for value in values:
            rows, plain = ([row.get(value, np.nan) for row in own if row["adapter"] == a] for a in (adapter, "none"))
            change = np.subtract(rows, plain)
            words = (
                "" if adapter == "none" else f" ({change.mean():+.1f} ± {change.std(ddof=1) / len(rows) ** 0.5:.1f})"
            )
            cells.append("" if np.isnan(rows).any() else f"{np.mean(rows):.1f}{words}")
        lines.append(f"| {adapter} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def beside(found: Found, one: str, other: str) -> str:
    """Say how one adapter does beside another on the seven sets, detector by detector."""
    words = []
    for detector in DETECTORS:
        own = [row for row in found if row["set"] in SEVEN and row["detector"] == detector]
        for value in ("AUROC", "power"):
            first, second = ([row[value] for row in own if row["adapter"] == name] for name in (one, other))
            change = np.subtract(first, second)
            words.append(f"{detector} {value} {change.mean():+.1f} ± {change.std(ddof=1) / len(change) ** 0.5:.1f}")
    return f"`{one}` less `{other}`: {', '.join(words)}."


def verdict(found: Found, value: str, adapters: list[str]) -> str:
    """Say on how many sets each adapter gains and loses, and by how much on average."""
    table = changes(found, value)
    lines = [f"| adapter | mean change of {value} | clear gains | clear losses | largest loss |", "|---" * 5 + "|"]
    for adapter in adapters:
        own = {key: row[adapter] for key, row in table.items()}
        clear = [change for change, error in own.values() if abs(change) > 2 * error]
        worst = min(own, key=lambda key: own[key][0])
        words = f"{own[worst][0]:+.1f} ± {own[worst][1]:.1f} ({', '.join(worst)})" if own[worst][0] < 0 else "none"
        counts = f"{sum(x > 0 for x in clear)} of {len(own)} | {sum(x < 0 for x in clear)} of {len(own)}"
        lines.append(f"| {adapter} | {np.mean([x for x, _ in own.values()]):+.2f} | {counts} | {words} |")
    return "\n".join(lines) + "\n"


def picture(found: Found, path: Path) -> None:
    """Draw false-positive rates by quartile of hardness (as CADET, fig. 5), for images and for the other sets."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    labels = {"none": "one threshold", "cadet": "CADET", "cadet log": "CADET, log", "mondrian": "Mondrian"}
    for axis, images in zip(axes, (True, False), strict=True):
        for place, (adapter, label) in enumerate(labels.items()):
            rows = [row for row in found if (row["set"] in IMAGES) == images and row["detector"] == "autoencoder"]
            own = [row for row in rows if row["adapter"] == adapter]
            rates = [np.mean([row[key] for row in own if key in row]) for key in QUARTILES]
            axis.bar(np.arange(4) + 0.2 * (place - 1.5), rates, 0.2, label=label)
        axis.axhline(100 * EPS, color="black", linewidth=0.8)
        axis.set(xticks=range(4), xticklabels=["easiest", "2", "3", "hardest"], xlabel="hardness quartile")
        axis.set_title("autoencoder, " + ("MNIST and Fashion-MNIST" if images else "tables and series"))
    axes[0].set_ylabel("false positives, %")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write(found: Found) -> str:
    """Write adapters.md and adapters.png; return the text."""
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    adapters = [name for name in dict.fromkeys(row["adapter"] for row in found) if name not in ("none", "mondrian")]
    gaps = ["none", *adapters, "mondrian"]
    several = [row for row in found if row["set"] not in IMAGES]
    images = [row for row in found if row["set"] in IMAGES]
    n_fits = len({(row["set"], row["seed"]) for row in found if row["set"] in SEVEN})
    sections = [
        f"# Score adapters\n\n{title}\n\n{protocol.strip()}\n\nMade by `python benchmarks/adapters.py`.",
        f"## In short\n\nSeven tabular sets ({', '.join(SEVEN)}), {n_fits} fits of each detector, means in %, at eps "
        ".05; in brackets the change from `none` and its standard error over the fits.",
        *(f"{detector}:\n\n{summary(found, detector, gaps)}" for detector in DETECTORS),
        beside(found, "mean", "ares"),
        "## Ranking: AUROC x 100\n\nSets with several seeds:",
        verdict(several, "AUROC", adapters),
        "Power at eps .05 on them, %:",
        verdict(several, "power", adapters),
        "AUROC of the plain score and its change, mean ± standard error over seeds; clear changes in bold:",
        change_table(several, "AUROC", adapters),
        "Images, one split each:",
        change_table(images, "AUROC", adapters),
        "## False positives by hardness\n\n![False positives](adapters.png)",
        "Highest less lowest false-positive rate of the hardness quartiles at eps .05, in points. Mondrian: the plain "
        "score with a reference for each quartile.",
        mean_table(found, "gap", gaps, ".1f"),
        "Power at eps .05, %. Mondrian can flag nothing on vertebral: its quartiles hold fewer than 19 rows.",
        mean_table(found, "power", gaps, ".1f"),
        "Rank correlation (Spearman) of score and hardness on normal rows. It is over all rows, while CADET aligns the "
        "upper tail (its quantile .95), so that the rates above may come together where this does not.",
        mean_table(found, "correlation", ["none", *adapters], "+.2f"),
        f"## Time\n\nCADET is fitted on 1,000,000 rows in {fit_seconds(1_000_000):.1f} s, "
        f"on 5,000 in {fit_seconds(5_000):.1f} s.",
    ]
    text = "\n\n".join(section.rstrip("\n") for section in sections) + "\n"
    OUT.mkdir(parents=True, exist_ok=True)
    picture(found, OUT / "adapters.png")
    (OUT / "adapters.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Measure everything and write docs/benchmarks/adapters.md and adapters.png."""
    import torch

    torch.set_num_threads(1)
    found: Found = []
    for name, seed in track(JOBS, description="measuring", disable=not sys.stderr.isatty()):
        found += measure(name, seed)
    print(write(found))


if __name__ == "__main__":
    main()
