"""How many rows a processor second scores and trains, by detector and shape of the table.

Three tables: shuttle (9 columns), 20 Gaussian columns that five factors and noise make, and digits (64 columns, rows
drawn again with a little noise). Each detector is trained on 4,000 rows, networks for one epoch, since what they answer
takes the same time however long they learned, and scores 20,000 others, in one thread. A wrapper has `reach` inside,
a blend `isolation_forest` as well.
What is counted is the process's own time. Other work on the machine still shows in it, since caches are shared: on a
busy machine, as this one was, the figures are up to a half too low.

Usage: python benchmarks/rates.py [DETECTOR ...]. What the page has of other detectors stays.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
from sklearn.datasets import load_digits

from assay.data.modalities.tabular import TABULAR
from assay.detectors.registry import DETECTORS, detector_class, is_wrapper, make_detector
from assay.parameters import parameters_of

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "speed.md"
TITLE, TRAINED, SCORED = "## Rows per processor second", 4_000, 20_000
OF_OTHER_DATA = ("fcdd", "cvdd", "lstm_predictor", "lstm_autoencoder")


def tables() -> dict[str, np.ndarray]:
    """Return the standardised rows of the three shapes, by what they are called."""
    rng = np.random.default_rng(0)
    with np.load(Path(os.environ["ASSAY_DATA_MIRROR"]) / "adbench" / "32_shuttle.npz") as file:
        shuttle = file["X"]
    gaussian = rng.normal(size=(TRAINED + SCORED, 5)) @ rng.normal(size=(5, 20))
    digits = load_digits().data[rng.integers(0, 1797, TRAINED + SCORED)]
    made = {
        "shuttle, 9 columns": rng.permutation(shuttle)[: TRAINED + SCORED],
        "Gaussian, 20 columns": gaussian + 0.3 * rng.normal(size=gaussian.shape),
        "digits, 64 columns": digits + 0.1 * rng.normal(size=digits.shape),
    }
    scaled = {name: (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-9) for name, rows in made.items()}
    return {name: rows.astype(np.float32) for name, rows in scaled.items()}


def rates(label: str, rows: np.ndarray) -> tuple[float, float]:
    """Return the rows that a detector scores and trains on in a second."""
    inner: dict[str, object] = {"of": ["reach", "isolation_forest"]} if label == "blend" else {"detector": "reach"}
    params = inner if is_wrapper(label) else {}
    if "epochs" in parameters_of(detector_class(label)):
        params["epochs"] = 1
    labels = np.full(TRAINED, -1, dtype=np.int8)
    detector = make_detector(label, params, seed=0, modality=TABULAR, device="cpu")
    if detector.uses_labels:
        labels[:40] = 1
    began = time.process_time()
    detector.fit(rows[:TRAINED], labels)
    fitted = time.process_time()
    detector.decision_function(rows[TRAINED:])
    return SCORED / (time.process_time() - fitted), TRAINED / (fitted - began)


def main() -> None:
    """Measure, and write the part of docs/benchmarks/speed.md; it is written anew after each detector."""
    above, _, part = OUT.read_text(encoding="utf-8").partition(f"\n{TITLE}\n")
    lines = {line.split(" | ")[0].strip("| "): line for line in re.findall(r"(?m)^\| .*\d \|$", part)}
    made = tables()
    for label in sys.argv[1:] or [name for name in DETECTORS if name not in OF_OTHER_DATA]:
        cells = []
        for rows in made.values():
            scored, trained = rates(label, rows)
            cells.append(f"{scored:,.0f}, {trained:,.0f}")
        lines[label] = f"| {label} | {' | '.join(cells)} |"
        print(lines[label], flush=True)
        head = f"| detector | {' | '.join(made)} |\n|---|{'---:|' * len(made)}\n"
        body = "\n".join(lines[name] for name in DETECTORS if name in lines)
        protocol = (__doc__ or "").split("Usage:")[0].split("\n\n", 1)[1].strip()
        text = f"{protocol}\n\nEach cell: rows scored, rows trained on. Made by `python benchmarks/rates.py`.\n\n"
        OUT.write_text(f"{above.rstrip()}\n\n{TITLE}\n\n{text}{head}{body}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
