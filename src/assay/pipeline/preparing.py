"""The verbs that prepare rows: split, contaminate, validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assay.data.card import Card, read_card
from assay.data.dataset import (
    ANOMALY,
    OTHER_PRINT,
    RowSet,
    RowSets,
    print_texts,
    read_dataset,
    read_row_table,
    read_rows,
    write_rows,
)
from assay.data.fingerprints import FIRST_SCHEME, SCHEME
from assay.errors import ConfigError, DataError, StageError
from assay.parts import read_json, write_json
from assay.pipeline.made import Made
from assay.pipeline.rows import LABELLED, MOST_JUDGED, held_to, joined, level_name, level_rows

if TYPE_CHECKING:
    from assay.data.validation import Summary


def split(out: Path, *, data: Path, quarantine: Path, answers: Path, seed: int, source: str) -> Made[dict[str, Any]]:
    """Assign one role to every row; write each role's rows, and probes if labels are too few.

    Probes are synthetic anomalies made from the selection (test, gate) normals by recipes other than `source`, the
    recipe of the rows injected into train. They are written to a subfolder ``probes`` of those rows. Of very many
    normals those that judge (`assay.pipeline.rows.MOST_JUDGED`) serve. A gate with too few normals for them has none.
    Rows listed in the file `quarantine` are excluded, and so are training rows that the file `answers` calls bad;
    missing files list none. Answers change no other role.

    Returns
    -------
    Made of dict
        Content of ``split.json``: rows and anomalies of every role, the kind of evidence, and the unit that roles were
        assigned by.
    """
    from assay.data.answers import read_row_answers, without_bad
    from assay.data.quarantine import is_listed, read_quarantine
    from assay.data.splitting import EXCLUDED, ROLES, evidence, split_rows

    dataset = read_dataset(data)
    card = dataset.card
    other = card.digests(dataset.data.features, FIRST_SCHEME if card.scheme == SCHEME else SCHEME)
    dataset.data.rows[OTHER_PRINT] = print_texts(other)
    del other
    listed = read_quarantine(quarantine)
    parts: Mapping[str, RowSet] = split_rows(
        dataset.data,
        card.columns,
        seed=seed,
        quarantined=listed,
        scheme=card.scheme,
        vocabulary=card.vocabulary,
        overlap=card.windows is not None,
    )
    excluded = parts[EXCLUDED]
    n_quarantined = int(is_listed(listed, excluded.rows).sum())
    barred: dict[str, Any] = {} if listed.empty else {"quarantined": n_quarantined}
    if n_apart := len(excluded) - n_quarantined:
        barred["anomalies_of_calibration_blocks"] = n_apart
    if not (answered := read_row_answers(answers)).empty:
        train, bad, barred["answered"] = without_bad(parts["train"], answered)
        parts = dict(parts) | {"train": train, EXCLUDED: joined(excluded, bad)}
    counts = {}
    for role, rows in parts.items():
        write_rows(out / role, rows)
        counts[role] = {"rows": len(rows), "anomalies": int((rows.labels == ANOMALY).sum())}
    kind = evidence({role: count["anomalies"] for role, count in counts.items()})
    _require_normals(card, counts, parts, barred, quarantine, answers)
    if kind == "probes":
        _write_probes(out, card, source, seed)
    units = [name for name in ("group", "time") if (dataset.data.rows[name] != "").any()]
    unit = " and ".join(units) or "row"
    if card.windows is not None and card.windows.roles_by == "block":
        unit = "block"
    summary = {"evidence": kind, "seed": seed, "roles": counts, "order": list(ROLES), "unit": unit}
    summary |= barred
    write_json(out / "split.json", summary)
    return Made(summary)


def _require_normals(
    card: Card,
    counts: Mapping[str, Mapping[str, int]],
    parts: Mapping[str, RowSet],
    barred: Mapping[str, Any],
    quarantine: Path,
    answers: Path,
) -> None:
    """Raise `StageError` if a role that needs normal rows got none."""
    for role in ("train", "adapt", "calibration", "selection", "test"):
        if counts[role]["rows"] == counts[role]["anomalies"]:
            contents = len({mark for part in parts.values() for mark in part.rows["fingerprint"]})
            raise StageError(
                f"dataset {card.name}: no normal row fell to role {role}; its {sum(map(len, parts.values()))} rows, "
                f"{contents} different ones, are too few to split"
                + (f", {barred['quarantined']} of them quarantined in {quarantine}" if "quarantined" in barred else "")
                + (f", {barred['answered']['bad']} answered bad in {answers}" if "answered" in barred else "")
            )


def _write_probes(out: Path, card: Card, source: str, seed: int) -> None:
    """Write probes of the roles whose anomalies judge; see `split`."""
    from assay.data.contamination import make_probe_rows

    injected = card.modality.default_recipe if source == "auto" else source
    recipes = [name for name in card.modality.recipes if name != injected]
    for offset, role in enumerate(("selection", "test", "gate"), start=1):
        # Rows that cannot be used are left to validation, which names them.
        normals = read_rows(out / role)
        normals = normals.take((normals.labels != ANOMALY) & card.accepts(normals.features).all(axis=1))
        judged = held_to(normals, MOST_JUDGED, seed=0)
        try:
            probes = make_probe_rows(
                judged,
                avoided=normals.rows["fingerprint"],
                recipes=recipes,
                n=max(60, len(judged) // 5),
                seed=1_000 * (seed + 1) + offset,
                columns=card.columns,
                modality=card.modality,
                scheme=card.scheme,
                vocabulary=card.vocabulary,
            )
        except (ConfigError, DataError):
            if role != "gate":
                raise
            continue  # a run does not stop for want of gate rows
        write_rows(out / role / "probes", probes)


def contaminate(
    out: Path,
    *,
    card: Path,
    train: Path,
    pool: Path,
    levels: Sequence[float] | Literal["auto"],
    source: str,
    labelled: float,
    seed: int,
) -> Made[dict[str, Any]]:
    """Choose or make the rows that each level injects into train, and record them.

    First a share `labelled` of anomalies is set aside from the pool in ``labelled/``, the same for every level, for
    detectors that learn from labels. Injected rows are never labelled in training. Anomalies whose content is also
    labelled normal are neither injected nor set aside.

    Returns
    -------
    Made of dict
        Content of ``plan.json``: for every level its numbers of rows and of injected rows; the fingerprints of the
        anomalies that were set aside (``labelled``); and, where levels are
        "auto", how many rows those that are left out would take (``left_out``).
    """
    from assay.data.contamination import AUTO, AUTO_LEVELS, choose_labelled, inject, rows_added

    dataset_card, clean = read_card(card), read_rows(train)
    anomalies = read_rows(pool)
    anomalies = anomalies.take((anomalies.rows["contradicted"] == 0).to_numpy(dtype=bool))
    labelled_anomalies, injectable = choose_labelled(anomalies, share=labelled, n_train=len(clean), seed=seed)
    if labelled:
        write_rows(out / LABELLED, labelled_anomalies)
    contaminated_levels = inject(
        clean,
        injectable,
        levels=levels,
        source=source,
        seed=seed,
        columns=dataset_card.columns,
        modality=dataset_card.modality,
        scheme=dataset_card.scheme,
        vocabulary=dataset_card.vocabulary,
    )
    unknown = int((clean.labels == -1).sum())
    plan = []
    for level in contaminated_levels:
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
    content = {"source": source, "seed": seed, "n_labelled": len(labelled_anomalies), "levels": plan}
    content["labelled"] = sorted(set(labelled_anomalies.rows["fingerprint"]))
    if levels == AUTO:
        taken = {level.rho for level in contaminated_levels}
        content["n_pool"] = int((injectable.labels == ANOMALY).sum())
        wanted = {rho: rows_added(rho, len(clean)) for rho in AUTO_LEVELS if rho not in taken}
        content["left_out"] = {f"{rho:g}": count for rho, count in wanted.items() if count}
    write_json(out / "plan.json", content)
    return Made(content)


def validate(out: Path, *, data: Path, suite: Path, split: Path, contaminated: Path, docs: Path) -> Made[Summary]:
    """Validate the source without quarantined rows, every level of train, and that no row has two roles.

    Parameters
    ----------
    docs : Path
        Folder of the Data Docs, which are not an output of the stage.

    Raises
    ------
    ValidationFailedError
        An expectation failed; the message names it, its column and the first failing rows.
    """
    from assay import console
    from assay.data.expectations import load_suite
    from assay.data.splitting import EXCLUDED, ROLES
    from assay.data.validation import LevelRows, raise_if_failed, validate_dataset, warning_lines

    plan = read_json(contaminated / "plan.json")["levels"]
    levels = (
        LevelRows(
            level["rho"],
            level_rows(split / "train", contaminated, level_name(level["rho"])),
            level["n_injected"],
            level["n_train"],
        )
        for level in plan
    )
    roles = RowSets({role: partial(read_rows, split / role) for role in ROLES})
    source, excluded = read_dataset(data), read_row_table(split / EXCLUDED, ["row_id"])
    if len(excluded):
        used = ~source.data.rows["row_id"].isin(excluded["row_id"])
        source = replace(source, data=source.data.take(used.to_numpy(dtype=bool)))
    summary = validate_dataset(load_suite(suite), source, roles, levels, docs=docs)
    raise_if_failed(summary)
    for line in warning_lines(summary):
        console.say(line)
    write_json(out / "summary.json", summary.to_json())
    return Made(summary)
