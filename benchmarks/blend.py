"""Blends beside the default alone: as packaged, and with units of rows set aside for them.

`blend` holds a fifth of the training rows out of its members, and takes its units from them ("packaged"). Beside
that, members fitted on all training rows, with units of clean adapt rows ("adapt"), which a detector never gets.
Sets, rows, levels and the default are those of ships.md. What counts is the difference of AUPRC x 100 from
`reach-minmax` alone, fitted on all training rows, on the same test rows.

Usage: python benchmarks/blend.py [seeds]     (ASSAY_DATA_MIRROR; goes on where it stopped, from .assay/blend)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Singles
from assay.data.contamination import rows_added
from assay.data.modalities.tabular import TABULAR
from assay.detectors.registry import make_detector
from assay.detectors.wrappers.blend import Units
from assay.errors import TrainingError
from ships import LEVELS, ranking, rows_of
from ships_sets import NINE, ROOT

OUT, CACHE = ROOT / "docs" / "benchmarks" / "blend.md", ROOT / ".assay" / "blend"
MEMBERS: dict[str, Any] = {
    "reach": {"rescaled": {"detector": "reach"}},
    "forest": "isolation_forest",
    "mcd": "mcd",
    "kNN": "knn",
    "kNN min-max": {"rescaled": {"detector": "knn"}},
    "kNN of 20": {"knn": {"n_neighbors": 20}},
    "KDE": "kde",
}
LOSSES = """No blend gains beyond noise in the mean. All lose on clean rows (.7 to 7 points), and 19 to 32 points on
optdigits, whose anomalies only min-max scaled columns show; all gain on thyroid, and those without plain kNN at rho
.1. That packaged members learn from four fifths of the rows costs little beside that."""
BLENDS = {
    "reach + forest": True,  # whether it is packaged, too
    "reach + forest + mcd": True,
    "reach + forest + kNN + kNN min-max": True,
    "reach + forest + kNN + kNN of 20": False,
    "reach + forest + KDE": False,
}


def measure(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield AUPRC of the default and of the blends on a set, at every level that its pool reaches."""
    rows, unlabelled, _ = rows_of(name, seed)
    for rho in LEVELS:
        n = rows_added(float(rho), len(rows["train"]))
        if n > len(unlabelled):
            continue
        train = np.concatenate([rows["train"], unlabelled[:n]])
        scaler = TABULAR.scaler().fit(train)
        scaled = {role: scaler.transform(rows[role]) for role in ("adapt", "test", "test_anom")}
        for which, parts in blended(scaler.transform(train), scaled, seed).items():
            yield {"set": name, "seed": seed, "rho": rho, "which": which, "AUPRC": ranking(parts)["AUPRC"]}


def blended(train: Singles, rows: dict[str, Singles], seed: int) -> dict[str, dict[str, Any]]:
    """Return the scores of test rows by "blend|units", and by "" those of the default; members that fail are absent."""
    said: dict[str, dict[str, Any]] = {}
    alone = {member: scores(named, train, rows, seed) for member, named in MEMBERS.items()}
    units = {member: Units.fit(member, of["adapt"]) for member, of in alone.items() if of}
    for blend, is_packaged in BLENDS.items():
        members = blend.split(" + ")
        if not units.keys() >= set(members):
            continue
        said[f"{blend}|adapt"] = {
            role: np.sum([units[member].of(alone[member][role]) for member in members], axis=0)
            for role in ("test", "test_anom")
        }
        if is_packaged:
            of = {"blend": {"of": [MEMBERS[member] for member in members]}}
            said[f"{blend}|packaged"] = scores(of, train, rows, seed)
    return {"": alone["reach"], **{which: parts for which, parts in said.items() if parts}}


def scores(named: Any, train: Singles, rows: dict[str, Singles], seed: int) -> dict[str, Singles]:
    """Return the scores of rows by a detector, none where it cannot be fitted, as `mcd` on constant columns."""
    ((name, params),) = ({named: {}} if isinstance(named, str) else named).items()
    try:
        detector = make_detector(name, params, seed=seed, device="cpu").fit(train)
    except TrainingError:
        return {}
    return {role: detector.decision_function(some) for role, some in rows.items()}


def table(results: pd.DataFrame) -> str:
    """Return how blends differ from the default, as a table."""
    pivot = results.pivot_table("AUPRC", ["set", "seed", "rho"], "which", sort=False)
    lines = []
    for which in [each for each in results["which"].unique() if each]:
        change = (pivot[which] - pivot[""]).dropna()
        by_set = change.groupby(["set", "rho"]).mean().groupby("set").mean()
        by_rho = change.groupby(["rho", "set"]).mean().groupby("rho").mean()
        blend, _, units = which.partition("|")
        lines.append(
            {"blend": blend, "units": units, "sets": len(by_set)}
            | {f"rho {rho:g}": f"{value:+.1f}" for rho, value in by_rho.items()}
            | {"mean": f"{by_set.mean():+.1f} ± {by_set.sem():.1f}"}
            | {"most": f"{by_set.max():+.1f} ({by_set.idxmax()})", "least": f"{by_set.min():+.1f} ({by_set.idxmin()})"}
        )
    return str(pd.DataFrame(lines).to_markdown(index=False))


def main() -> None:
    """Measure what is missing, and write docs/benchmarks/blend.md."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    CACHE.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(seeds):
        for name in NINE:
            path = CACHE / f"{name}.{seed}.json"
            if not path.is_file():
                pd.DataFrame(list(measure(name, seed))).to_json(path, orient="records")
                print(name, seed, flush=True)
            paths.append(path)
    results = pd.concat([pd.read_json(path, orient="records") for path in paths], ignore_index=True)
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    words = [
        f"# {title}",
        protocol.strip(),
        fill(LOSSES, 110),
        fill(
            f"Nine sets, {seeds} seeds. Made by `python benchmarks/blend.py {seeds}`. ± is the standard error over the "
            "sets; most and least name the sets on which a blend gains and loses most. Vertebral has too few training "
            "rows for a packaged blend.",
            110,
        ),
    ]
    text = "\n\n".join([*words, table(results)]) + "\n"
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
