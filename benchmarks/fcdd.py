"""FCDD: images against exposed and synthetic anomalies, and where in an image the anomaly is.

Protocol of the first table (Ruff 2021, table 3.1, in part): one class of Fashion-MNIST is normal, the other nine
are anomalies; classes 0, 1 and 2, fixed before anything was measured. For each seed, 2,000 images of the class are
drawn for training, and of the others 1,000 normal ones and 100 of each other class for the test. Pixels are divided
by the range of the training images. FCDD has one network of 8 and 16 channels and 30 epochs, half of each batch
anomalies: 2,000 images of MNIST with label 1 (exposure), alone or with as many confetti; or confetti alone. The
others are the product's defaults (the autoencoder with one network) on the same training rows, without labels.

Protocol of the second table: magnetic tiles at 64 x 64 pixels (the mean of 2 x 2 pixels of 128 x 128). For each
seed, 700 tiles without a defect are for training, the other 252 and 382 with a defect for the test; ten with a
mask, two of each kind of defect, are set aside: "10 masks" learns from these with their masks, "10 labels" without.
Image AUROC is of the score; pixel AUROC is over all pixels of the test tiles that have a mask or no defect, by the
masks (a pixel of 64 x 64 counts where more than half of it is defective). FCDD: one network of three blocks (8, 16,
16 channels), 30 epochs, confetti alone; its heat maps with the default width. The autoencoder's map is the squared
error of each pixel. kNN on pooled features: the mean and the deviation of patches of 8 x 8 pixels, a row for every
patch at a fixed place; a patch's score is the distance to the nearest patch at its place in the training tiles, a
tile's score that of its worst patch, and the map repeats the score over the patch.

Nothing is chosen by test labels, but the default width of heat maps: it was set on made-up images (waves with
squares), before this was measured.

Reading: with MNIST as exposure FCDD has .925 in the mean (aim .84; the thesis .88, with other images as exposure),
with as many confetti beside them .863, with confetti alone .765. kNN, which sees no anomalies at all, has .931: it
is better on two of the three classes, and the autoencoder is as good. On the tiles FCDD is the best of the three,
and its maps are weak all the same: .66 over pixels, where chance is .5. What its maps show without real anomalies
in training is what looks like confetti.

Masks do not pay at 64 x 64: with ten of them FCDD has .58 on tiles and .65 on pixels (one seed), with confetti
beside them .65 and .68, with confetti alone .69 and .68 on the same rows. At 32 x 32 (three seeds) they rank pixels
4 points better than confetti alone and tiles 3 to 4, of which the gain on tiles without confetti is within the
noise of the seeds. Ten labels without masks are worth less than confetti there, and their maps are near chance. Of
what sees no anomalies, kNN on patches ranks tiles as well as masks alone, and the autoencoder pixels 2 points less.
The second table is of before, without masks, with all 392 defective tiles in its test.

Why: half of each batch are those ten tiles, each of them two thousand times in 30 epochs, and the network learns
them by heart. It tells them from the training tiles far better than other defects from new tiles (.75 to .86
against .56 to .64 at 32 x 32), and seeds differ by .044. With as many of them as an epoch of normal tiles has (one
or six in each batch, the rest confetti, `confetti: 0.98` or `0.9`) that is .63 to .68, and new tiles are ranked as
well or better, with a deviation of .004; ten labels without masks gain 9 points over pixels by it (.527 to .617).
At 64 x 64 `0.9` has .67 on tiles and .69 on pixels (one seed), where half of each batch had .58 and .65; confetti
alone have .69 and .68, so that ten masks still add nothing to tiles there. So with few masks `confetti: 0.9` is the
better choice here. It did not become the default: where confetti look like no defect (stains among spots, a test
with 20 masks), it costs 7 points over pixels.

More masks do not mend it at 64 x 64 (seed 0, fifty tiles with a mask set aside, the last table): fifty masks
beside .9 confetti have .67 on tiles and .67 on pixels, ten .67 and .68, confetti alone .69 and .67, and ten
masks as half of each batch .58 and .64. Nor does another loss: the mean over the pixels of a mask in place of
that over the image, so that a small defect weighs as much as a large one, has .63 and .68 beside .9 confetti;
the loss that is built in is that of the thesis (section 3.1.3). So what ten masks teach at 64 x 64 is a point
on pixels, which may be the noise of one seed, and nothing on tiles: set `confetti: 0.9` with them, never
masks alone, and leave them out where only tiles are ranked.

That confetti are left out by default where there are labelled anomalies is what the thesis does; it was made the
default after a look at the first table.

Usage: python benchmarks/fcdd.py            (needs ASSAY_DATA_MIRROR)
       python benchmarks/fcdd.py tiles32    (prints the table of tiles at 32 x 32 alone: about three minutes)
       python benchmarks/fcdd.py tiles64    (prints that at 64 x 64 with fifty set aside: about seven minutes)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from sklearn.metrics import roc_auc_score

from assay.data.modalities.image import Image
from assay.data.modalities.magnetic_tiles import TILE_SIDE, halved, load_tiles
from assay.data.modalities.mnist import load_images
from assay.detectors.base import Detector
from assay.detectors.registry import make_detector

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "fcdd.md"
NORMAL, SEEDS = (0, 1, 2), (0, 1)
THESIS = {0: 0.82, 1: 0.98, 2: 0.84}
QUICK: dict[str, Any] = {"members": 1, "epochs": 30}
ONLY_TILES = sys.argv[1:] in (["tiles32"], ["tiles64"])
SIDE = 32 if sys.argv[1:] == ["tiles32"] else 64
PATCH = SIDE // 8
TILE_SEEDS, EACH_KIND = (0, 1, 2), 2 if SIDE == 32 else 10
TILE_DETECTORS = (
    (
        *("fcdd, confetti", "fcdd, 10 masks", "fcdd, 10 masks and .9 confetti", "fcdd, 50 masks and .9 confetti"),
        *("fcdd, 50 masks",),
    )
    if SIDE == 64
    else (
        *("fcdd, confetti", "fcdd, 10 masks", "fcdd, 10 masks and .5 confetti", "fcdd, 10 masks and .9 confetti"),
        *("fcdd, 10 masks and .98 confetti", "fcdd, 10 labels", "fcdd, 10 labels and .98 confetti", "autoencoder"),
        "knn on patches",
    )
)

Floats = NDArray[np.float32]


def scaled(training: NDArray[Any], *others: NDArray[Any]) -> list[Floats]:
    """Return flattened images divided by the range of the training images."""
    low, width = float(training.min()), float(np.ptp(training))
    return [((images.reshape(len(images), -1) - low) / width).astype(np.float32) for images in (training, *others)]


def fashion() -> Iterator[dict[str, Any]]:
    """Yield the areas of every detector for every class and seed."""
    images, classes = load_images("fashion-mnist")
    digits, _ = load_images("mnist")
    jobs = [(normal, seed) for normal in NORMAL for seed in SEEDS]
    for normal, seed in track(jobs, description="fashion", disable=not sys.stderr.isatty()):
        rng = np.random.default_rng((seed, normal))
        own = rng.permutation(np.flatnonzero(classes == normal))
        others = [rng.permutation(np.flatnonzero(classes == c))[:100] for c in range(10) if c != normal]
        tested = np.concatenate([own[2000:3000], *others])
        exposed = digits[np.sort(rng.choice(len(digits), 2000, replace=False))]
        rows, test, shown = scaled(images[own[:2000]], images[tested], exposed)
        truth = classes[tested] != normal
        candidates: dict[str, tuple[str, dict[str, Any], Floats, NDArray[np.int8] | None]] = {
            "fcdd, exposure": (
                *("fcdd", QUICK, np.concatenate([rows, shown])),
                np.repeat([0, 1], [len(rows), len(shown)]).astype(np.int8),
            ),
            "fcdd, exposure and confetti": (
                *("fcdd", QUICK | {"confetti": 0.5}, np.concatenate([rows, shown])),
                np.repeat([0, 1], [len(rows), len(shown)]).astype(np.int8),
            ),
            "fcdd, confetti": ("fcdd", QUICK, rows, None),
            "knn": ("knn", {}, rows, None),
            "isolation_forest": ("isolation_forest", {}, rows, None),
            "autoencoder": ("autoencoder", {"members": 1}, rows, None),
        }
        for label, (kind, params, given, labels) in candidates.items():
            start = time.process_time()
            detector = make_detector(kind, params, seed=seed, device="cpu", modality=Image((28, 28)))
            scores = detector.fit(given, labels).decision_function(test)
            spent = time.process_time() - start
            yield {"class": normal, "detector": label, "AUROC": roc_auc_score(truth, scores), "seconds": spent}


def tiles() -> Iterator[dict[str, Any]]:
    """Yield image and pixel AUROC of every detector for every seed."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    data = load_tiles(Path(mirror) if mirror else None)
    images, masks = halved(data.images), halved(data.masks)
    if SIDE < TILE_SIDE // 2:
        images, masks = (each.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4)) for each in (images, masks))
    masks = masks > 0.5
    for seed in track(TILE_SEEDS, description="tiles", disable=not sys.stderr.isatty()):
        rng = np.random.default_rng(seed)
        free = rng.permutation(np.flatnonzero(data.kinds == 0))
        with_mask = [np.flatnonzero((data.kinds == kind) & masks.any(axis=(1, 2))) for kind in range(1, 6)]
        shown = np.stack([rng.permutation(of_kind)[:EACH_KIND] for of_kind in with_mask], axis=1).ravel()
        tested = np.concatenate([free[700:], np.setdiff1d(np.flatnonzero(data.kinds > 0), shown)])
        rows, test, labelled = scaled(images[free[:700]], images[tested], images[shown])
        truth = data.kinds[tested] > 0
        has_pixels = ~truth | masks[tested].any(axis=(1, 2))
        for label in TILE_DETECTORS:
            start = time.process_time()
            scores, maps = mapped(label, rows, test, seed, (labelled, masks[shown]))
            spent = time.process_time() - start
            pixels = roc_auc_score(masks[tested][has_pixels].ravel(), maps[has_pixels].ravel())
            areas = {"AUROC": roc_auc_score(truth, scores), "pixel AUROC": pixels}
            print(seed, label, areas, round(spent), file=sys.stderr, flush=True)
            yield {"detector": label, **areas, "seconds": spent}


def mapped(
    label: str, rows: Floats, test: Floats, seed: int, shown: tuple[Floats, NDArray[np.bool_]]
) -> tuple[Floats, Floats]:
    """Return scores (n,) and maps (n, h, w) of test images; `shown` are defective images and their masks."""
    if label == "knn on patches":
        known, new = (patches(images) for images in (rows, test))
        far = np.stack(
            [
                make_detector("knn", {"n_neighbors": 1}, seed=0).fit(known[i]).decision_function(new[i])
                for i in range(len(new))
            ]
        )
        sides = SIDE // PATCH
        maps = far.T.reshape(-1, sides, sides).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
        return far.max(axis=0), maps
    params: dict[str, Any] = QUICK | {"channels": [8, 16, 16]} if label.startswith("fcdd") else {"members": 1}
    params |= {"confetti": float(label.split()[-2])} if " and " in label else {}
    detector: Any = make_detector(label.split(",")[0], params, seed=seed, device="cpu", modality=Image((SIDE, SIDE)))
    if " masks" not in label and " labels" not in label:
        detector.fit(rows)
    else:
        images, marks = (each[: int(label.split()[1])] for each in shown)
        masks = np.concatenate([np.zeros((len(rows), SIDE, SIDE), dtype=np.bool_), marks])
        labels = np.repeat([0, 1], [len(rows), len(images)]).astype(np.int8)
        more = {"masks": masks} if "masks" in label else {}
        detector.fit(np.concatenate([rows, images]), labels, **more)
    maps = detector.heat_maps(test) if label.startswith("fcdd") else errors(detector, test)
    return detector.decision_function(test), maps


def errors(detector: Detector, images: Floats) -> Floats:
    """Return the squared errors of an autoencoder's pixels, (n, h, w)."""
    network: Any = detector.network_  # type: ignore[attr-defined]
    with torch.inference_mode():
        parts = torch.tensor(images, dtype=torch.float64).split(64)  # as detectors score
        squared = [(network(part[None]) - part).square().mean(dim=0) for part in parts]
    return torch.cat(squared).reshape(-1, SIDE, SIDE).numpy().astype(np.float32)


def patches(images: Floats) -> Floats:
    """Return mean and deviation of the patches of images: (places, n, 2)."""
    sides = SIDE // PATCH
    blocks = images.reshape(-1, sides, PATCH, sides, PATCH).transpose(1, 3, 0, 2, 4).reshape(sides**2, len(images), -1)
    return np.stack([blocks.mean(axis=2), blocks.std(axis=2)], axis=2)


def spread(values: pd.Series) -> str:
    """Format the mean ± standard deviation."""
    return f"{values.mean():.3f} ± {values.std():.3f}"


def tile_table() -> list[str]:
    """Measure the tiles; return the table."""
    lines = [f"## Magnetic tiles at {SIDE} x {SIDE}, {len(TILE_SEEDS)} seeds", ""]
    lines += ["| detector | AUROC | pixel AUROC | CPU s |", "|---" * 4 + "|"]
    for label, rows in pd.DataFrame(tiles()).groupby("detector", sort=False):
        cells = [spread(rows["AUROC"]), spread(rows["pixel AUROC"]), f"{rows['seconds'].mean():.0f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure everything and write docs/benchmarks/fcdd.md."""
    torch.set_num_threads(1)
    if ONLY_TILES:
        print("\n".join(tile_table()))
        return
    words = ["# FCDD", "", (__doc__ or "").split("\n\nUsage")[0], "", "Made by `python benchmarks/fcdd.py`.", ""]
    areas = pd.DataFrame(fashion())
    words += [f"## Fashion-MNIST, AUROC, {len(SEEDS)} seeds", ""]
    heads = [f"class {normal}" for normal in NORMAL]
    words += ["| detector | " + " | ".join(heads) + " | mean | CPU s |", "|---" * (len(heads) + 3) + "|"]
    for label, rows in areas.groupby("detector", sort=False):
        cells = [spread(rows[rows["class"] == normal]["AUROC"]) for normal in NORMAL]
        words.append(f"| {label} | {' | '.join(cells)} | {rows['AUROC'].mean():.3f} | {rows['seconds'].mean():.0f} |")
    printed = " | ".join(f"{value:.2f}" for value in THESIS.values())
    words.append(f"| thesis, CIFAR-100 as exposure | {printed} | {np.mean(list(THESIS.values())):.2f} | |")
    words += ["", *tile_table()]
    OUT.write_text("\n".join(words) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
