"""ECG5000: heartbeats as windows of one channel."""

from __future__ import annotations

from pathlib import Path

from assay.data.mirrored import MirroredFile
from assay.data.modalities.base import RawDataset

ECG5000 = MirroredFile(
    "ecg5000_f32.npz",
    "ee2b3c5075d401f72e054f71fcde03280685cf86eb9fe7d4a540e0eb5edfc1f8",
    "float32 array X (5000, 140) and array y (5000,), 1 where a heartbeat is not of class 1",
    "ECG5000 in the UCR archive, https://www.timeseriesclassification.com",
)


def ecg5000(mirror: Path | None) -> RawDataset:
    """Return the windows, of shape (5000, 140); anomalies are all classes but the first."""
    arrays = ECG5000.read(mirror)
    X = arrays["X"]
    columns = tuple(f"t{step:03d}" for step in range(X.shape[1]))
    source = f"{ECG5000.origin}; normal = class 1 (normal beats), anomaly = any other class"
    return RawDataset(columns, (X.shape[1], 1), source, X, arrays["y"] == 1)
