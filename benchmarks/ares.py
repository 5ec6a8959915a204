"""ARES: how many neighbours contamination asks for, what it is worth on tabular sets, and how fast it is.

**Contamination** (the pattern of table 4 of the paper, its unimodal half). MNIST, one class normal (0, 2, 4, 6 and 8 in
turn), the autoencoder of the product with one member and dense layers, 2 seeds. Drawn for each class and seed: 2,200
rows to train on, 3,000 adapt rows, and 700 normal and 700 anomalous images to test on. At rho, that share of the rows
trained on AND of the adapt rows are images of the other nine classes, which nobody labels; more of the same at every
level, and none of them is tested on. Different from the paper: neighbours are adapt rows (3,000, where the paper has
about 5,000 training rows), the two terms are mixed free of scale, the density term is a logarithm, and the network is
smaller. "auto" suspects 5 %, the product's default where nobody has labelled the adapt rows, here and below; "auto,
told rho" is given the true share, which a user does not know exactly.

**Sets.** The protocol of benchmarks/adapters.py (rows split anew by hash for each of 3 seeds, all settings the
product's defaults, trained on the train normals, adapter fitted on the adapt rows, judged on the test rows) without
contamination. No setting was chosen by labels of these sets; cardio and thyroid are the development sets of ARES.

**Speed.** 60,000 latents of 32 columns and 60,000 others to be scored against them: codes of MNIST and Fashion-MNIST
images by an autoencoder of 4 members with 8 codes each, and by one of a single member with 32 (10 epochs on 6,000
images); and normal rows of 32 columns without any structure, the worst case of every such search. Beside
scikit-learn's LocalOutlierFactor(novelty=True), which gives the density term alone, with the same k on the same codes
(float32, its default algorithm, which is brute force here). "auto" keeps 20,000 rows, and so does scikit-learn in
that line. Recall is the share of true nearest neighbours found, for 400 of the rows scored.

Usage: python benchmarks/ares.py [--quick] [contamination] [sets] [speed]     (all three if none is named)
       ASSAY_DATA_MIRROR names the folder of the images and sets; --quick runs a small part and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track
from threadpoolctl import threadpool_limits

from assay.calibration.adapters.ares import Ares
from assay.calibration.adapters.outputs import Outputs, observe
from assay.data.modalities.image import Image
from assay.data.modalities.mnist import load_images
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from assay.evaluation.metrics import auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "ares.md"
MIRROR = os.environ.get("ASSAY_DATA_MIRROR")

CLASSES, SEEDS = (0, 2, 4, 6, 8), (0, 1)
LEVELS = (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
COUNTS = (10, 50, 100, 200, 500)
N_TRAIN, N_ADAPT, N_TEST = 2_200, 3_000, 700

SETS = ("satellite", "pendigits", "optdigits", "satimage-2", "vertebral")
DETECTORS = ("autoencoder", "knn")
SET_SEEDS = range(3)

CORES = 2
N_STORED = 60_000
N_RECALL = 400
COLUMNS = 32


def contaminated(labels: Any, rho: float, seed: tuple[int, int]) -> tuple[dict[str, Any], Any]:
    """Return the rows to train on, to adapt on and to test on at a level, and which of the last are anomalies."""
    rng = np.random.default_rng(seed)
    normals, others = (rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1))
    sizes = {"train": N_TRAIN, "adapt": N_ADAPT}
    test = np.concatenate([normals[:N_TEST], others[:N_TEST]])
    normals, others = normals[N_TEST:], others[N_TEST:]
    rows = {}
    for role, size in sizes.items():
        n_bad = round(rho * size)
        rows[role] = np.concatenate([normals[: size - n_bad], others[:n_bad]])
        normals, others = normals[size:], others[round(max(LEVELS) * size) :]
    return {**rows, "test": test}, np.repeat([0, 1], N_TEST).astype(np.int8)


def contamination(classes: tuple[int, ...], seeds: tuple[int, ...], levels: tuple[float, ...]) -> str:
    """Format table 4's pattern: AUROC by contamination and number of neighbours."""
    found: list[dict[str, Any]] = []
    jobs = [(c, seed, rho) for c in classes for seed in seeds for rho in levels]
    for c, seed, rho in track(jobs, description="contamination", disable=not sys.stderr.isatty()):
        dataset = load_named(f"mnist-{c}", mirror=Path(MIRROR) if MIRROR else None, cache=ROOT / ".assay" / "downloads")
        rows, truth = contaminated(dataset.data.labels, rho, (seed, c))
        scaler = Image((28, 28)).scaler().fit(dataset.data.features[rows["train"]])
        scaled = {role: scaler.transform(dataset.data.features[of]) for role, of in rows.items()}
        detector: Any = make_detector("autoencoder", {"members": 1}, seed=seed, device="cpu").fit(scaled["train"])
        null_model = Image((28, 28)).null_model().fit(scaled["train"])
        adapt, tested = (observe(detector, null_model, scaled[role]) for role in ("adapt", "test"))
        scores = {"none": np.asarray(tested.scores)}
        adapters = {f"k = {k}": Ares(neighbours=k) for k in COUNTS}
        adapters |= {"auto": Ares(), "auto, told rho": Ares(contamination=rho)}
        for label, adapter in adapters.items():
            scores[label] = adapter.fit(adapt).transform(tested)
        found += [
            {"rho": rho, "adapter": label, "run": (c, seed), "AUROC": 100 * auroc(truth, adapted)}
            for label, adapted in scores.items()
        ]
    return _contamination_table(pd.DataFrame(found), len(classes) * len(seeds))


def _contamination_table(found: pd.DataFrame, n_runs: int) -> str:
    means = found.pivot_table("AUROC", "rho", "adapter", sort=False)
    paired = found.pivot_table("AUROC", ["rho", "run"], "adapter", sort=False)
    words = [
        f"\n## Contamination\n\nAUROC x 100, mean over {n_runs} runs; in brackets the standard error of the difference "
        "from k = 10 over the runs. The best k of each row in bold.\n",
        "| rho | k of auto | " + " | ".join(means.columns) + " |",
        "|---" * (len(means.columns) + 2) + "|",
    ]
    fixed = [f"k = {k}" for k in COUNTS]
    for rho, row in means.iterrows():
        cells = []
        for label in means.columns:
            differences = paired.loc[rho][label] - paired.loc[rho]["k = 10"]
            error = "" if label == "k = 10" else f" ({differences.std() / np.sqrt(n_runs):.1f})"
            cell = f"{row[label]:.1f}{error}"
            cells.append(f"**{cell}**" if label in fixed and row[label] == row[fixed].max() else cell)
        ks = " / ".join(str(max(10, int(2 * share * N_ADAPT) + 1)) for share in (0.05, float(str(rho))))
        words.append(f"| {100 * float(str(rho)):g} % | {ks} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def sets(names: tuple[str, ...], seeds: range) -> str:
    """Format AUROC with and without ARES, detector by detector, on clean rows."""
    labels = ["none", "ares", "r alone", "d alone"]
    words = [
        f"\n## Sets\n\nAUROC x 100, mean ± standard deviation over {len(seeds)} seeds; r is the local reconstruction "
        "term alone, d the density term alone.\n",
        "| set | detector | adapt rows | k | " + " | ".join(labels) + " |",
        "|---" * (len(labels) + 4) + "|",
    ]
    for name in names:
        for kind in DETECTORS:
            found, adapter = [], Ares()
            for seed in seeds:
                adapt, tested, truth = _observed(name, kind, seed)
                adapter = Ares().fit(adapt)
                scores = [tested.scores, adapter.transform(tested)]
                scores += [Ares(density_weight=weight).fit(adapt).transform(tested) for weight in (0, 1e9)]
                found.append([100 * auroc(truth, each) for each in scores])
            cells = [f"{m:.1f} ± {d:.1f}" for m, d in zip(np.mean(found, 0), np.std(found, 0, ddof=1), strict=True)]
            words.append(f"| {name} | {kind} | {len(adapter.errors_)} | {adapter.k_} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def _observed(name: str, kind: str, seed: int) -> tuple[Outputs, Outputs, Any]:
    dataset = load_named(name, mirror=Path(MIRROR) if MIRROR else None, cache=ROOT / ".assay" / "downloads")
    card = dataset.card
    parts = split_rows(dataset.data, card.columns, seed=seed)
    scaler = card.modality.scaler().fit(parts["train"].features)
    train, adapt, test = (scaler.transform(parts[role].features) for role in ("train", "adapt", "test"))
    null_model = card.modality.null_model().fit(train)
    detector: Any = make_detector(kind, {}, seed=seed, modality=card.modality, device="cpu").fit(train)
    truth = (parts["test"].labels == 1).astype(np.int8)
    return observe(detector, null_model, adapt), observe(detector, null_model, test), truth


def latents(n: int) -> Iterator[tuple[str, Any, Any, tuple[int | str, ...]]]:
    """Yield a name, codes of 2n rows, their scores, and the numbers of neighbours to measure."""
    images = np.concatenate([load_images(name)[0] for name in ("mnist", "fashion-mnist")]).reshape(-1, 784)
    drawn = np.random.default_rng(0).permutation(len(images))[: 2 * n]
    rows = images[drawn].astype(np.float32) / 255
    for members in (4, 1):
        params = {"members": members, "latent_dim": COLUMNS // members, "epochs": 10, "hidden": [128, 64]}
        detector: Any = make_detector("autoencoder", params, seed=0, device="cpu").fit(rows[:6_000])
        blocks = [rows[i : i + 10_000] for i in range(0, len(rows), 10_000)]
        codes = np.concatenate([detector.embed(block) for block in blocks], axis=1)
        scores = np.concatenate([detector.decision_function(block) for block in blocks])
        yield f"{members} x {COLUMNS // members} codes of images", codes, scores, (10, 100, 1_000, "auto")
    noise = np.random.default_rng(1).normal(size=(1, 2 * n, COLUMNS)).astype(np.float32)
    yield "noise", noise, noise[0, :, 0], (100,)


def _outputs(codes: Any, scores: Any, part: slice) -> Outputs:
    return Outputs(scores[part], scores[part], lambda: codes[:, part])


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = function()
    return time.perf_counter() - started, made


def recall(adapter: Ares, stored: Any, rows: Any) -> float:
    """Return the share of the true nearest neighbours of rows (n, d) that the adapter's index finds."""
    assert adapter.index_ is not None
    found = np.empty((len(rows), adapter.k_), dtype=np.int64)
    adapter.index_.search(rows, lambda block: found.__setitem__(block.rows, block.neighbours))
    squared = np.square(stored).sum(axis=1) - 2 * rows @ stored.T
    true = np.argpartition(squared, adapter.k_ - 1, axis=1)[:, : adapter.k_]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def speed(n: int) -> str:
    """Format the seconds of ARES and of scikit-learn's local outlier factor side by side."""
    from sklearn.neighbors import LocalOutlierFactor

    words = [
        f"\n## Speed\n\nSeconds on the clock, {CORES} cores, {n:,} rows to score; load is the machine's average of "
        "the minute before (0 when it is idle); size is what is stored of the adapter.\n",
        "| codes | stored | k | ARES fit | transform | scikit-learn fit | score | fit + score, ratio | score, ratio | "
        "recall | row alone | size | load it | load |",
        "|---" * 14 + "|",
    ]
    for name, codes, scores, counts in latents(n):
        tested, one = (_outputs(codes, scores, part) for part in (slice(n, 2 * n), slice(1)))
        for k in counts:
            stored = n // 3 if k == "auto" else n
            busy = os.getloadavg()[0]
            fit, adapter = _timed(partial(Ares(neighbours=k, max_rows=n).fit, _outputs(codes, scores, slice(stored))))
            transform, _ = _timed(partial(adapter.transform, tested))
            alone = min(_timed(partial(adapter.transform, one))[0] for _ in range(50))
            space = np.concatenate([own / unit for own, unit in zip(codes, adapter.units_, strict=True)], axis=1)
            joint = space.astype(np.float32)
            estimator = LocalOutlierFactor(n_neighbors=adapter.k_, novelty=True)
            other_fit, _ = _timed(partial(estimator.fit, joint[:stored]))
            score, _ = _timed(partial(estimator.score_samples, joint[n:]))
            part = adapter.to_part()
            load, _ = _timed(partial(Ares.from_part, part))
            cells = [
                f"{stored:,}",
                f"{adapter.k_:,}" + (" (auto)" if k == "auto" else ""),
                *(f"{seconds:.2f}" for seconds in (fit, transform, other_fit, score)),
                f"{(other_fit + score) / (fit + transform):.1f}",
                f"{score / transform:.1f}",
                f"{recall(adapter, space[:stored], space[n : n + N_RECALL]):.3f}"
                + " (exact)" * adapter.index_.is_exact,
                f"{1000 * alone:.1f} ms",
                f"{sum(array.nbytes for array in part.arrays.values()) / 1e6:.0f} MB",
                f"{1000 * load:.0f} ms",
                f"{busy:.1f}",
            ]
            words.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def main() -> None:
    """Measure the parts that are asked for; all of them together are written to docs/benchmarks/ares.md."""
    parser = argparse.ArgumentParser(description="Benchmark of ARES")
    parser.add_argument("parts", nargs="*", metavar="part", help="contamination, sets or speed")
    parser.add_argument("--quick", action="store_true", help="a small part of everything; nothing is written")
    asked = parser.parse_args()
    quick = asked.quick
    parts: dict[str, tuple[int, Callable[[], str]]] = {
        "contamination": (1, lambda: contamination(*((8,), (0,), (0, 0.05)) if quick else (CLASSES, SEEDS, LEVELS))),
        "sets": (1, lambda: sets(SETS[-1:], range(2)) if quick else sets(SETS, SET_SEEDS)),
        "speed": (CORES, lambda: speed(7_000 if quick else N_STORED)),
    }
    if unknown := set(asked.parts) - set(parts):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(parts)}")
    for name in asked.parts or parts:
        threads, measure = parts[name]
        with threadpool_limits(limits=threads):
            text = measure()
        print(text)
        if not quick:
            write(name, text)


def write(name: str, text: str) -> None:
    """Put a part's section in its place on the page, and leave the other sections as they are."""
    head = f"# ARES\n\n{(__doc__ or '').split('Usage:')[0].strip()}\n\nMade by `python benchmarks/ares.py`.\n"
    page = OUT.read_text(encoding="utf-8") if OUT.is_file() else ""
    sections = {section.split("\n")[0].lower(): f"\n## {section}" for section in page.split("\n## ")[1:]}
    sections[name] = text
    order = [part for part in ("contamination", "sets", "speed") if part in sections]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(head + "".join(sections[part].rstrip("\n") + "\n" for part in order), encoding="utf-8")


if __name__ == "__main__":
    main()
