"""The process of a local Prefect server, ``prefect server start``, which ends with the process that started it."""

from __future__ import annotations

import runpy
import sys

from assay.interruption import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "prefect"
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
