"""The verbs of the pipeline, one function each, on files named by their arguments.

The Prefect flow, the DVC stages and ``assay stage`` all call these through `assay.stages`. What each
one may read is listed in docs/architecture.md; nothing here reaches for a file it was not given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.config import Choice
from assay.data.dataset import (
    ANOMALY,
    NORMAL,
    Card,
    RowSet,
    fingerprints,
    read_card,
    read_dataset,
    read_rows,
    write_rows,
)
from assay.errors import NoValidCandidateError, StageError, TrainingError
from assay.parts import read_json, read_part, write_arrays, write_json, write_part

if TYPE_CHECKING:
    from assay.calibration.hardness import Strata
    from assay.serving.scorer import ScoreFunction

Progress = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """Progress callback that shows nothing."""


def level_name(rho: float) -> str:
    """Folder name of a contamination level."""
    return f"level-{rho:g}"


def levels_of(folder: Path) -> list[str]:
    """Names of the level folders in a stage's folder, by increasing rho."""
    found = [path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("level-")]
    return sorted(found, key=lambda name: float(name.removeprefix("level-")))


def split(data: Path, out: Path, *, seed: int, source: str) -> dict[str, Any]:
    """Give every row one role; write each role's rows, and probes where labels are too few.

    Probes are synthetic anomalies made from the selection (test) normals by recipes other than `source`,
    which is what gets injected into train; they lie in folders of their own beside those rows.
    """
    from assay.data.contamination import make_probes
    from assay.data.recipes import RECIPES
    from assay.data.splitting import ROLES, evidence, split_rows

    dataset = read_dataset(data)
    card = dataset.card
    parts = split_rows(dataset.data, card.columns, seed=seed)
    kind = evidence(parts)
    contents = len({mark for part in parts.values() for mark in part.rows["fingerprint"]})
    for role, rows in parts.items():
        write_rows(out / role, rows)
    for role in ("train", "adapt", "calibration", "selection", "test"):
        if not (parts[role].labels != ANOMALY).any():
            raise StageError(
                f"dataset {card.name}: no normal row fell to role {role}; its {len(dataset.data)} rows, "
                f"{contents} different ones, are too few to split"
            )
    if kind == "probes":
        injected = "cluster" if source == "auto" else source
        recipes = [name for name in RECIPES if name != injected]
        for offset, role in enumerate(("selection", "test"), start=1):
            # Rows that are not finite are left to validation, which names them.
            normals = parts[role].take((parts[role].labels != ANOMALY) & np.isfinite(parts[role].features).all(axis=1))
            probes = make_probes(
                normals,
                recipes=recipes,
                n=max(60, len(normals) // 5),
                seed=1_000 * (seed + 1) + offset,
                columns=card.columns,
                image_shape=card.image_shape,
            )
            write_rows(out / role / "probes", probes)
    unit = "time" if (dataset.data.rows["time"] != "").any() else "row"
    unit = "group" if (dataset.data.rows["group"] != "").any() else unit
    counts = {
        role: {"rows": len(rows), "anomalies": int((rows.labels == ANOMALY).sum())} for role, rows in parts.items()
    }
    write_json(
        out / "split.json", {"evidence": kind, "seed": seed, "roles": counts, "order": list(ROLES), "unit": unit}
    )
    return {}


def contaminate(
    card: Path, train: Path, pool: Path, out: Path, *, levels: Sequence[float], source: str, seed: int
) -> dict[str, Any]:
    """Choose or make the rows that each level adds to train, and put every one on record."""
    from assay.data.contamination import inject

    about, clean = read_card(card), read_rows(train)
    found = inject(
        clean,
        read_rows(pool),
        levels=levels,
        source=source,
        seed=seed,
        columns=about.columns,
        image_shape=about.image_shape,
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
    write_json(out / "plan.json", {"source": source, "seed": seed, "levels": plan})
    return {}


def validate(data: Path, suite: Path, split: Path, contaminated: Path, out: Path, *, docs: Path) -> dict[str, Any]:
    """Validate the source, every level of train, and that roles share no content.

    Raises
    ------
    ValidationFailedError
        An expectation failed; the message names it, its column and the first failing rows.
    """
    from assay.data.expectations import load_suite
    from assay.data.splitting import ROLES
    from assay.data.validation import LevelRows, raise_if_failed
    from assay.data.validation import validate as check

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
    summary = check(load_suite(suite), read_dataset(data), roles, levels, docs=docs)
    raise_if_failed(summary)
    write_json(out / "summary.json", summary.to_json())
    return {}


def level_rows(train: Path, contaminated: Path, level: str) -> RowSet:
    """Training rows of a level: the train role, then the rows that the level injects.

    The rows gain a column ``injected``, 1 for those.
    """
    import pandas as pd

    clean, injected = read_rows(train), read_rows(contaminated / level)
    rows = pd.concat([clean.rows.assign(injected=0), injected.rows.assign(injected=1)], ignore_index=True)
    return RowSet(np.concatenate([clean.features, injected.features]), rows)


def train(
    card: Path,
    train: Path,
    contaminated: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    seed: int,
    device: str,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit scaler, null model and every detector at every level, on that level's training rows alone.

    A detector that cannot be trained is put on record in ``failures.json`` and left out; where none can,
    the stage stops.
    """
    from assay.detectors.registry import make_detector

    about = read_card(card)
    names = levels_of(contaminated)
    failures: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, float]] = {}
    jobs = [(level, choice) for level in names for choice in detectors]
    for number, (level, choice) in enumerate(jobs):
        if choice is detectors[0]:
            scaled = _scale_level(about, level_rows(train, contaminated, level), out / level)
        detector = make_detector(choice.name, choice.params, seed=seed, image_shape=about.image_shape, device=device)
        started = time.perf_counter()
        try:
            detector.fit(scaled, progress=_epochs(progress, f"{choice.label} at {level}", number, len(jobs)))
        except TrainingError as error:
            failures.setdefault(choice.label, {})[level] = str(error)
            continue
        seconds.setdefault(choice.label, {})[level] = round(time.perf_counter() - started, 3)
        write_part(out / level, choice.label, detector.to_part())
    if len(failures) == len(detectors):
        raise TrainingError(
            "no detector could be trained: " + "; ".join(next(iter(levels.values())) for levels in failures.values())
        )
    write_json(out / "failures.json", failures)
    return {"fit_seconds": seconds}


def _scale_level(about: Card, rows: RowSet, out: Path) -> NDArray[np.float32]:
    """Fit and write the scaler and the null model of a level; return its rows, scaled."""
    from assay.calibration.hardness import make_null_model
    from assay.data.scaling import scaler_for

    scaler = scaler_for(about.modality).fit(rows.features)
    scaled = scaler.transform(rows.features)
    write_part(out, "scaler", scaler.to_part())
    write_part(out, "null_model", make_null_model(about.modality, about.image_shape).fit(scaled).to_part())
    return scaled


def _epochs(progress: Progress, what: str, number: int, jobs: int) -> Callable[[int, int, float], None]:
    """Return the callback by which a detector's epochs move the bar of the whole stage."""
    progress(what, number / jobs)
    return lambda epoch, epochs, _: progress(f"{what}, epoch {epoch} of {epochs}", (number + epoch / epochs) / jobs)


def calibrate(
    adapt: Path,
    calibration: Path,
    trained: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit adapters and stratum edges on the adapt rows, then store the calibration rows' scores.

    Nothing is learned from the calibration rows but the conformal reference, which lies apart in
    ``reference/``.
    """
    from assay.calibration.adapters import make_adapter
    from assay.calibration.conformal import ConformalCalibrator
    from assay.calibration.hardness import Strata, load_null_model
    from assay.data.scaling import load_scaler
    from assay.detectors.registry import load_detector
    from assay.serving.scorer import ScoreFunction

    adapt_rows, reference_rows = presumed_normals(read_rows(adapt)), presumed_normals(read_rows(calibration))
    failures = read_json(trained / "failures.json")
    for level in levels_of(trained):
        scaler = load_scaler(read_part(trained / level, "scaler"))
        null_model = load_null_model(read_part(trained / level, "null_model"))
        scaled = scaler.transform(adapt_rows.features)
        hardness = null_model.hardness(scaled)
        write_part(out / "adapters" / level, "strata", Strata.fit(hardness).to_part())
        for choice in detectors:
            if level in failures.get(choice.label, {}):
                continue
            progress(f"{choice.label} at {level}", 0.0)
            detector = load_detector(read_part(trained / level, choice.label))
            scores = detector.decision_function(scaled)
            for adapter_choice in adapters:
                name = candidate_name(choice.label, adapter_choice.label)
                adapter = make_adapter(adapter_choice.name, adapter_choice.params).fit(scores, hardness)
                write_part(out / "adapters" / level, name, adapter.to_part())
                function = ScoreFunction(scaler, detector, null_model, adapter)
                calibrator = ConformalCalibrator().fit(function(reference_rows.features))
                write_part(out / "reference" / level, name, calibrator.to_part())
    return {}


def select(
    selection: Path,
    trained: Path,
    adapters_folder: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    eps: float,
    seed: int,
) -> dict[str, Any]:
    """Choose the candidate to ship, from selection rows alone."""
    from assay.evaluation.selection import Candidate, SelectionScores
    from assay.evaluation.selection import select as choose

    normals, anomalies, evidence = evidence_rows(selection)
    failures = read_json(trained / "failures.json")
    levels = {float(level.removeprefix("level-")): level for level in levels_of(trained)}
    strata: dict[float, Any] = {}
    candidates = []
    for position, (detector, adapter) in enumerate(candidate_pairs(detectors, adapters)):
        if detector.label in failures:
            continue
        scores, floats = {}, 0
        for rho, level in levels.items():
            function = load_function(trained, adapters_folder, level, detector.label, adapter.label)
            scores[rho] = SelectionScores(function(normals.features), function(anomalies.features))
            if rho not in strata:
                strata[rho] = load_strata(adapters_folder, level).assign(function.hardness(normals.features))
            if rho == min(levels):
                name = candidate_name(detector.label, adapter.label)
                floats = stored_floats(trained / level, detector.label) + stored_floats(adapters_folder / level, name)
        candidates.append(Candidate(detector.label, adapter.label, position, floats, scores))
    prints = normals.rows["fingerprint"].to_numpy(dtype=np.str_)
    result = choose(candidates, fingerprints=prints, strata=strata, eps=eps, seed=seed, ships_at=min(levels))
    write_json(out / "selection.json", {"evidence": evidence, "untrained": failures, **result.to_json()})
    return {}


def evaluate(
    test: Path,
    trained: Path,
    calibrated: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    eps: float,
) -> dict[str, Any]:
    """Read the test rows, once, for the record: every candidate at every level."""
    from assay.calibration.conformal import ConformalCalibrator
    from assay.evaluation.metrics import auprc, auroc, stratum_rates

    normals, anomalies, evidence = evidence_rows(test)
    failures = read_json(trained / "failures.json")
    truth = np.concatenate([np.zeros(len(normals), np.int8), np.ones(len(anomalies), np.int8)])
    table = []
    for level in levels_of(trained):
        p_values = {}
        for detector, adapter in candidate_pairs(detectors, adapters):
            if level in failures.get(detector.label, {}):
                continue
            name = candidate_name(detector.label, adapter.label)
            function = load_function(trained, calibrated / "adapters", level, detector.label, adapter.label)
            calibrator = ConformalCalibrator.from_part(read_part(calibrated / "reference" / level, name))
            of_normals, of_anomalies = function(normals.features), function(anomalies.features)
            scores = np.concatenate([of_normals, of_anomalies])
            flags = calibrator.predict(of_normals, eps)
            strata = load_strata(calibrated / "adapters", level).assign(function.hardness(normals.features))
            rates = stratum_rates(flags, strata)
            p_values[f"{name}.normals"] = calibrator.p_values(of_normals)
            p_values[f"{name}.anomalies"] = calibrator.p_values(of_anomalies)
            table.append(
                {
                    "level": level,
                    "detector": detector.label,
                    "adapter": adapter.label,
                    "auroc": auroc(truth, scores),
                    "auprc": auprc(truth, scores),
                    "fpr": float(flags.mean()),
                    "stratum_fpr": rates,
                    "worst_stratum_fpr": max(rates.values()),
                    "power": float(calibrator.predict(of_anomalies, eps).mean()),
                    "smallest_eps": calibrator.smallest_eps,
                    "n_calibration": round(1 / calibrator.smallest_eps) - 1,
                }
            )
        write_arrays(out / "p_values" / f"{level}.safetensors", p_values)
    about = {"evidence": evidence, "eps": eps, "n_normals": len(normals), "n_anomalies": len(anomalies)}
    write_json(out / "evaluation.json", {**about, "candidates": table})
    return {}


def package(
    data: Path,
    split: Path,
    roles: dict[str, Path],
    records: dict[str, Path],
    trained: Path,
    calibrated: Path,
    selected: Path,
    out: Path,
    *,
    eps: float,
) -> dict[str, Any]:
    """Write the winner, trained at level 0, as one scorer folder with its lineage.

    Parameters
    ----------
    split : Path
        ``split.json``.
    roles : dict of str to Path
        Folders of the rows it learned from (train, adapt, calibration); their fingerprints go along.
    records : dict of str to Path
        ``record.json`` of each stage up to calibration, in order, and of select.

    Raises
    ------
    NoValidCandidateError
        Selection found nothing that may ship.
    """
    from assay.lineage.records import dvc_directory_md5, hash_file, lineage_root
    from assay.serving.scorer import write_scorer

    selection = read_json(selected / "selection.json")
    if selection["winner"] is None:
        reasons: dict[str, list[str]] = {}
        for row in selection["candidates"]:
            reasons.setdefault(row["reason"], []).append(candidate_name(row["detector"], row["adapter"]))
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        raise NoValidCandidateError(f"no valid candidate, nothing ships ({told})")
    winner = selection["candidates"][selection["winner"]]
    card: Card = read_card(data)
    level = levels_of(trained)[0]
    name = candidate_name(winner["detector"], winner["adapter"])
    parts = {
        "scaler": read_part(trained / level, "scaler"),
        "detector": read_part(trained / level, winner["detector"]),
        "null_model": read_part(trained / level, "null_model"),
        "strata": read_part(calibrated / "adapters" / level, "strata"),
        "adapter": read_part(calibrated / "adapters" / level, name),
        "calibrator": read_part(calibrated / "reference" / level, name),
    }
    hashes = {stage: hash_file(path) for stage, path in records.items()}
    behind = {stage: digest for stage, digest in hashes.items() if stage != "select"}
    head = {
        "name": card.name,
        "modality": card.modality,
        "columns": list(card.columns),
        "image_shape": None if card.image_shape is None else list(card.image_shape),
        "eps": eps,
        "unit": read_json(split)["unit"],
        "candidate": {"detector": winner["detector"], "adapter": winner["adapter"], "level": level},
        "lineage": {"root": lineage_root(behind), "data_version": dvc_directory_md5(data), "records": hashes},
    }
    seen = {role: packed_fingerprints(read_rows(folder), card.columns) for role, folder in roles.items()}
    extra: dict[str, Any] = {f"lineage/{stage}.json": path.read_bytes() for stage, path in records.items()}
    write_scorer(out, head, parts, {**extra, "rows.safetensors": seen})
    return {}


def presumed_normals(data: RowSet) -> RowSet:
    """Return the rows that are not labelled as anomalies."""
    return data.take(data.labels != ANOMALY)


def evidence_rows(folder: Path) -> tuple[RowSet, RowSet, str]:
    """Return normals, anomalies and the kind of evidence of the selection or test rows.

    "labels": labelled normals and labelled anomalies. "anomalies": no row is labelled normal, so that all
    others are presumed to be, against the labelled anomalies. "probes": presumed normals, and probes.
    """
    data = read_rows(folder)
    if (folder / "probes").is_dir():
        return presumed_normals(data), read_rows(folder / "probes"), "probes"
    known = data.labels == NORMAL
    anomalies = data.take(data.labels == ANOMALY)
    return (data.take(known), anomalies, "labels") if known.any() else (presumed_normals(data), anomalies, "anomalies")


def candidate_name(detector: str, adapter: str) -> str:
    """File name of a candidate's parts."""
    return f"{detector}+{adapter}"


def candidate_pairs(detectors: Iterable[Choice], adapters: Sequence[Choice]) -> Iterator[tuple[Choice, Choice]]:
    """Every detector with every adapter, in order of position."""
    return ((detector, adapter) for detector in detectors for adapter in adapters)


def load_function(trained: Path, adapters: Path, level: str, detector: str, adapter: str) -> ScoreFunction:
    """Rebuild a candidate's score function from its parts."""
    from assay.calibration.adapters import load_adapter
    from assay.calibration.hardness import load_null_model
    from assay.data.scaling import load_scaler
    from assay.detectors.registry import load_detector
    from assay.serving.scorer import ScoreFunction

    return ScoreFunction(
        load_scaler(read_part(trained / level, "scaler")),
        load_detector(read_part(trained / level, detector)),
        load_null_model(read_part(trained / level, "null_model")),
        load_adapter(read_part(adapters / level, candidate_name(detector, adapter))),
    )


def load_strata(adapters: Path, level: str) -> Strata:
    """Load the hardness strata of a level."""
    from assay.calibration.hardness import Strata

    return Strata.from_part(read_part(adapters / level, "strata"))


def stored_floats(folder: Path, part: str) -> int:
    """Number of array elements that a part ships."""
    return sum(array.size for array in read_part(folder, part).arrays.values())


def packed_fingerprints(data: RowSet, columns: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Fingerprints as bytes, uint8 of shape (n, 16), sorted."""
    found = sorted(bytes.fromhex(str(text)) for text in fingerprints(data.features, columns))
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(len(found), 16)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read ``evaluation.json`` of a finished evaluate stage."""
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_bytes())
    return content
