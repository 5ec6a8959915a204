"""The verbs that prepare rows: split, contaminate, validate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.data.dataset import ANOMALY, read_card, read_dataset, read_rows, write_rows
from assay.errors import StageError
from assay.parts import read_json, write_json
from assay.pipeline.made import Made
from assay.pipeline.rows import LABELLED, level_name, level_rows

if TYPE_CHECKING:
    from assay.data.validation import Summary


def split(out: Path, *, data: Path, quarantine: Path, seed: int, source: str) -> Made[dict[str, Any]]:
    """Give every row one role; write each role's rows, and probes where labels are too few.

    Probes are synthetic anomalies made from the selection (test) normals by recipes other than `source`,
    which is what gets injected into train; they lie in folders of their own beside those rows. Rows whose
    content is in the file `quarantine` are excluded, all copies of them; one that is missing holds none.

    Returns
    -------
    Made of dict
        Content of ``split.json``: rows and anomalies of every role, the kind of evidence, and by what roles were given.
    """
    from assay.data.contamination import make_probe_rows
    from assay.data.quarantine import read_quarantine
    from assay.data.splitting import EXCLUDED, QUARANTINED, ROLES, evidence, split_rows

    dataset = read_dataset(data)
    card = dataset.card
    listed = frozenset(read_quarantine(quarantine)["fingerprint"])
    parts = split_rows(dataset.data, card.columns, seed=seed, quarantined=listed)
    barred = {QUARANTINED: int((parts[EXCLUDED].rows["reason"] == QUARANTINED).sum())} if listed else {}
    kind = evidence(parts)
    contents = len({mark for part in parts.values() for mark in part.rows["fingerprint"]})
    for role, rows in parts.items():
        write_rows(out / role, rows)
    for role in ("train", "adapt", "calibration", "selection", "test"):
        if not (parts[role].labels != ANOMALY).any():
            raise StageError(
                f"dataset {card.name}: no normal row fell to role {role}; its {len(dataset.data)} rows, "
                f"{contents} different ones, are too few to split"
                + (f", {barred[QUARANTINED]} of them quarantined in {quarantine}" if listed else "")
            )
    if kind == "probes":
        injected = card.modality.default_recipe if source == "auto" else source
        recipes = [name for name in card.modality.recipes if name != injected]
        for offset, role in enumerate(("selection", "test"), start=1):
            # Rows that are not finite are left to validation, which names them.
            normals = parts[role].take((parts[role].labels != ANOMALY) & np.isfinite(parts[role].features).all(axis=1))
            probes = make_probe_rows(
                normals,
                recipes=recipes,
                n=max(60, len(normals) // 5),
                seed=1_000 * (seed + 1) + offset,
                columns=card.columns,
                modality=card.modality,
            )
            write_rows(out / role / "probes", probes)
    unit = "time" if (dataset.data.rows["time"] != "").any() else "row"
    unit = "group" if (dataset.data.rows["group"] != "").any() else unit
    counts = {
        role: {"rows": len(rows), "anomalies": int((rows.labels == ANOMALY).sum())} for role, rows in parts.items()
    }
    about = {"evidence": kind, "seed": seed, "roles": counts, "order": list(ROLES), "unit": unit}
    found = {**about, **barred}
    write_json(out / "split.json", found)
    return Made(found)


def contaminate(
    out: Path,
    *,
    card: Path,
    train: Path,
    pool: Path,
    levels: Sequence[float],
    source: str,
    labelled: float,
    seed: int,
) -> Made[dict[str, Any]]:
    """Choose or make the rows that each level adds to train, and put every one on record.

    A share `labelled` of anomalies is first set aside from the pool in ``labelled/``, the same for every level:
    for the detectors that learn from labelled anomalies. Injected rows are never labelled in training.

    Returns
    -------
    Made of dict
        Content of ``plan.json``: for every level how many rows it has, and how many of them are injected.
    """
    from assay.data.contamination import choose_labelled, inject

    about, clean = read_card(card), read_rows(train)
    known, rest = choose_labelled(read_rows(pool), share=labelled, n_train=len(clean), seed=seed)
    if labelled:
        write_rows(out / LABELLED, known)
    found = inject(
        clean,
        rest,
        levels=levels,
        source=source,
        seed=seed,
        columns=about.columns,
        modality=about.modality,
    )
    unknown = int((clean.labels == -1).sum())
    plan = []
    for level in found:
        write_rows(out / level_name(level.rho), level.injected)
        n_injected = len(level.injected)
        plan.append(
            {
                "rho": level.rho,
                "n_train": len(clean) + n_injected,
                "n_injected": n_injected,
                "injected_rho": n_injected / (len(clean) + n_injected),
                "natural_anomalies_known": int((clean.labels == ANOMALY).sum()),
                "natural_rows_unknown": unknown,
            }
        )
    whole = {"source": source, "seed": seed, "n_labelled": len(known), "levels": plan}
    write_json(out / "plan.json", whole)
    return Made(whole)


def validate(out: Path, *, data: Path, suite: Path, split: Path, contaminated: Path, docs: Path) -> Made[Summary]:
    """Validate the source without its quarantined rows, every level of train, and that roles share no content.

    Parameters
    ----------
    docs : Path
        Folder of the Data Docs, which are for people and no output.

    Raises
    ------
    ValidationFailedError
        An expectation failed; the message names it, its column and the first failing rows.
    """
    from assay.data.expectations import load_suite
    from assay.data.splitting import EXCLUDED, QUARANTINED, ROLES
    from assay.data.validation import LevelRows, raise_if_failed, validate_dataset

    plan = read_json(contaminated / "plan.json")["levels"]
    levels = [
        LevelRows(
            level["rho"],
            level_rows(split / "train", contaminated, level_name(level["rho"])),
            level["n_injected"],
            level["n_train"],
        )
        for level in plan
    ]
    roles = {role: read_rows(split / role) for role in ROLES}
    source, excluded = read_dataset(data), read_rows(split / EXCLUDED).rows
    if "reason" in excluded:
        barred = excluded.loc[excluded["reason"] == QUARANTINED, "row_id"]
        used = ~source.data.rows["row_id"].isin(barred)
        source = replace(source, data=source.data.take(used.to_numpy(dtype=bool)))
    summary = validate_dataset(load_suite(suite), source, roles, levels, docs=docs)
    raise_if_failed(summary)
    write_json(out / "summary.json", summary.to_json())
    return Made(summary)
