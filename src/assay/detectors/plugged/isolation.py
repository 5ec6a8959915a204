"""Runs third-party code with one thread, seeded global generators and no network, and restores the state afterwards."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

HASH_SEED = "PYTHONHASHSEED"
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
_running = threading.local()


@contextmanager
def isolated(path: str, seed: int) -> Iterator[None]:
    """Run third-party code with one thread, seeded global generators and no network; restore these afterwards.

    PyOD's networks draw from the global generators of Python, NumPy and torch and seed them, some at import; they
    also set PYTHONHASHSEED for later processes. Global states are changed only here. Warnings are silenced, and
    prints go to standard error, so that they do not mix with a program's output.

    A call to the network in this thread raises `PermissionError`: some of PyOD's encoders send rows to a service or
    load a model from one, and nothing that Assay trains leaves the machine, nor depends on what lies elsewhere.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ExitStack() as stack:
        stack.callback(_set_hash_seed, os.environ.get(HASH_SEED))
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, legacy)
        stack.enter_context(_offline(path))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(threadpool_limits(limits=1))
        if path.startswith("pyod."):
            stack.enter_context(_isolated_torch(seed))
            stack.enter_context(_pinned_numba())
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield


@contextmanager
def _offline(path: str) -> Iterator[None]:
    _watch_network()
    before, _running.path = getattr(_running, "path", None), path
    try:
        yield
    finally:
        _running.path = before


@cache
def _watch_network() -> None:
    """Have Python ask about each call to the network; a hook cannot be taken away again."""
    sys.addaudithook(_refuse_network)


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _NETWORK or getattr(_running, "path", None) is None:
        return
    if isinstance(arguments[0], socket.socket) and arguments[0].family == socket.AF_UNIX:
        return
    raise PermissionError(f"{_running.path} calls the network, which plugged-in detectors may not")


def _set_hash_seed(value: str | None) -> None:
    if value is None:
        os.environ.pop(HASH_SEED, None)
    else:
        os.environ[HASH_SEED] = value


@contextmanager
def _isolated_torch(seed: int) -> Iterator[None]:
    import torch

    from assay.detectors.training.loop import pinned_threads

    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else ()
    with pinned_threads(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _pinned_numba() -> Iterator[None]:
    """Let numba, which PyOD imports, use one thread inside the block."""
    numba: Any = sys.modules.get("numba")
    if numba is None:
        yield
        return
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)
