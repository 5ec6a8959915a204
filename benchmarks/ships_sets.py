"""The two lists of sets of ships.py: nine that the default was chosen by, and others that it is judged by."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.data.dataset import RowSet
from assay.data.public_sets import load_named
from detection import SETS as NINE

ROOT = Path(__file__).resolve().parents[1]
NAMED = (*(f"{family}-{normal}" for family in ("mnist", "fashion-mnist") for normal in (0, 3, 6)), "ecg5000")
MOST_NORMALS, MOST_ANOMALIES = 6_000, 2_000  # kept of a large set that the default is judged by
LATE_CYCLES = 30
Raw = tuple[NDArray[Any], NDArray[np.bool_], Any]


def ai4i(mirror: Path) -> Raw:
    """Return milling with failures: its columns of numbers."""
    table = pd.read_csv(mirror / "ai4i2020.csv")
    kinds = ("UDI", "Machine failure", "TWF", "HDF", "PWF", "OSF", "RNF")
    return _numbers(table, kinds), (table["Machine failure"] == 1).to_numpy(), None


def skab(mirror: Path) -> Raw:
    """Return single moments of a pump rig; groups are its runs."""
    table = pd.read_csv(mirror / "skab_all.csv.gz", sep=";")
    table = table[table["anomaly"].notna()]
    return _numbers(table, ("anomaly", "changepoint")), (table["anomaly"] == 1).to_numpy(), table["file"].to_numpy()


def cmapss(mirror: Path) -> Raw:
    """Return single cycles of turbofans, their last ones as anomalies; groups are engines."""
    with tarfile.open(mirror / "cmapss.tar.gz") as packed:
        (member,) = [name for name in packed.getnames() if "train_FD001" in name]
        table = pd.read_csv(packed.extractfile(member), sep=r"\s+", header=None)
    late = table.groupby(0)[1].transform("max") - table[1] < LATE_CYCLES
    return table.iloc[:, 5:].to_numpy(dtype=np.float64), late.to_numpy(), table[0].to_numpy()


def hydraulic(mirror: Path) -> Raw:
    """Return cycles of a hydraulic rig, those with a failing cooler as anomalies."""
    rig = np.load(mirror / "hydraulic_8x60.npz")
    return rig["X"].reshape(len(rig["X"]), -1), rig["profile"][:, 0] == 3, None


def movements(mirror: Path) -> Raw:
    """Return windows of people who walk, and as anomalies of people who climb stairs; groups are people."""
    data = np.load(mirror.parent / "uci_har_inertial_10299x9x128_f32.npz")
    some = data["y"] < 3
    return data["X"][some].reshape(some.sum(), -1)[:, ::4], data["y"][some] > 0, data["subject"][some]


FILES: dict[str, Callable[[Path], Raw]] = {
    "AI4I": ai4i,
    "SKAB by run": skab,
    "CMAPSS FD001 by engine": cmapss,
    "hydraulic cooler": hydraulic,
    "movements by person": movements,
}
LISTS = {"nine": NINE, "held_out": (*NAMED, *FILES)}


def load(name: str) -> tuple[RowSet, tuple[str, ...]]:
    """Return the rows of a set, as a table, and its columns."""
    mirror = Path(os.environ["ASSAY_DATA_MIRROR"])
    if name in FILES:
        features, anomalous, groups = FILES[name](mirror / "wider")
    else:
        data = load_named(name, mirror=mirror, cache=ROOT / ".assay" / "downloads").data
        if name in NINE:
            return data, tuple(f"x{i}" for i in range(data.features.shape[1]))
        features, anomalous, groups = data.features.reshape(len(data), -1), data.labels == 1, None
    rng = np.random.default_rng(0)
    kept = np.sort(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero(which))[:most]
                for which, most in ((~anomalous, MOST_NORMALS), (anomalous, MOST_ANOMALIES))
            ]
        )
    )
    rows = pd.DataFrame(
        {
            "row_id": kept.astype(str),
            "label": anomalous[kept].astype(np.int8),
            "group": "" if groups is None else groups[kept].astype(str),
            "time": "",
        }
    )
    return RowSet(features[kept].astype(np.float64), rows), tuple(f"x{i}" for i in range(features.shape[1]))


def _numbers(table: pd.DataFrame, without: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the columns of numbers but for some."""
    return table.select_dtypes("number").drop(columns=list(without)).to_numpy(dtype=np.float64)
