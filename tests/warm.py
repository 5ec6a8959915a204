"""Commands without the seconds of imports: each `assay` is a process of its own, forked from one that has imported.

The command line, the environment, the folder and the three streams are those of the caller. What the command's own
start is tested for (signals, code of a project's own) starts the installed command instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path(sys.executable).parent
IMPORTED = (
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "scipy.optimize",
    "sklearn.covariance",
    "sklearn.ensemble",
    "sklearn.metrics",
    "sklearn.neighbors",
    "torch",
    "safetensors.numpy",
    "great_expectations",
    "duckdb",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "rich.progress",
    "assay.cli.main",
    "assay.project.stages",
    "assay.runs.report",
)
# Runs as `assay`, with no imports of its own to wait for.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
if os.environ.get("PYTHONPATH", "") != {pythonpath!r}:
    os.execv({installed!r}, ["assay", *sys.argv[1:]])
request = json.dumps({{"argv": ["assay", *sys.argv[1:]], "folder": os.getcwd(), "env": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    socket.send_fds(link, [len(request).to_bytes(8, "little")], [0, 1, 2])
    link.sendall(request)
    code = link.recv(4)
sys.exit(int(code or b"70"))
"""


@contextlib.contextmanager
def warm_commands() -> Iterator[Path]:
    """Start the process that has imported; give the folder with the `assay` that asks it, for the front of PATH."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        address = str(Path(folder) / "socket")
        client = Path(folder) / "bin" / "assay"
        client.parent.mkdir()
        client.write_text(
            CLIENT.format(
                python=sys.executable,
                pythonpath=os.environ.get("PYTHONPATH", ""),
                installed=str(INSTALLED / "assay"),
                address=address,
            )
        )
        client.chmod(0o755)
        with subprocess.Popen(
            [sys.executable, "-m", "tests.warm", address], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield client.parent
            server.kill()


def _serve(address: str) -> None:
    """Fork for every request until standard input ends; return in the fork, which is to run the command."""
    from assay.environment import SWITCHES

    os.environ.update(SWITCHES)
    for name in IMPORTED:
        importlib.import_module(name)
    from assay.project.modules import code_of

    code_of(ROOT / "src", ["assay.cli.main"], None)  # parsed once: what it read is remembered by content
    gc.collect()
    gc.freeze()  # a fork neither searches nor copies what stands here already
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)  # noqa: T201
        while True:
            if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
                sys.exit()
            link, _ = listener.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                listener.close()
                break
            link.close()
    worker = os.fork()
    if worker:
        os.closerange(0, 3)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        with contextlib.suppress(OSError):
            link.sendall(str(code).encode())
        os._exit(0)
    _become(link)


def _become(link: socket.socket) -> None:
    """Take over the streams, the folder, the environment and the arguments of the caller."""
    head, streams, _, _ = socket.recv_fds(link, 8, 3)
    with link, link.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(head, "little")))
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]


def _end(code: int) -> NoReturn:
    """End as Python does, but leave it to the system to free what was imported, which takes it no time."""
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
    from assay.cli.main import main

    try:
        main(prog_name="assay")
    except SystemExit as asked:
        if not isinstance(asked.code, int):
            raise
        _end(asked.code)
