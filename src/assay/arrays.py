"""Types of arrays, by what they hold, and the range of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # of any precision
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Labels = NDArray[np.int8]  # 0 normal, 1 anomaly, -1 unknown
Flags = NDArray[np.bool_]
Texts = NDArray[np.object_]

FLOAT32_MAX = float(np.finfo(np.float32).max)
