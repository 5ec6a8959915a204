"""Commands without the seconds of imports: each `assay` and `dvc` is a process of its own, forked from one that has
imported.

The command line, the environment, the folder and the three streams are those of the caller. Where the caller has the
PYTHONPATH of the tests, Assay is imported already; elsewhere the fork imports it, from where that PYTHONPATH leads.
What the command's own start is tested for (signals) starts the installed command instead.
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

from tests.killing import obey_fault

ROOT = Path(__file__).resolve().parents[1]
PYTHONPATH = os.environ.get("PYTHONPATH", "")
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
    "dvc.repo",
    "dvc.scm",
    "dvc.stage.cache",
    "dvc.output",
    "dvc.cachemgr",
    "dvc.data_cloud",
    "dvc.render",
    "networkx",
)
OWN = ("assay.cli.main", "assay.project.stages", "assay.runs.report")
# Runs as `assay`, as `dvc` and as `python`, with no imports of its own to wait for. Assay calls DVC as `python -m dvc`.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "python" and arguments[:2] == ["-m", "dvc"]:
    name, arguments = "dvc", arguments[2:]
if name == "python":
    os.execv({python!r}, [{python!r}, *arguments])
address = {own!r} if name == "dvc" or os.environ.get("PYTHONPATH", "") == {pythonpath!r} else {other!r}
request = json.dumps({{"argv": [name, *arguments], "folder": os.getcwd(), "env": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as link:
    link.connect(address)
    socket.send_fds(link, [len(request).to_bytes(8, "little")], [0, 1, 2])
    link.sendall(request)
    code = link.recv(4)
sys.exit(int(code or b"70"))
"""


@contextlib.contextmanager
def warm_commands(shared: Path) -> Iterator[Path]:
    """Start the process that has imported; give the folder of the commands that ask it, for the front of PATH.

    The folder stays in `shared`: a project's Git may know the `python` in it, which needs no other process.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm-", dir=shared))
    commands = folder / "bin"
    commands.mkdir()
    client = CLIENT.format(
        python=sys.executable, pythonpath=PYTHONPATH, own=str(folder / "own"), other=str(folder / "other")
    )
    for name in ("assay", "dvc", "python"):
        (commands / name).write_text(client)
        (commands / name).chmod(0o755)
    server_command = [sys.executable, "-m", "tests.warm", str(folder)]
    with subprocess.Popen(server_command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield commands
        server.kill()


def _prepare(folder: Path) -> None:
    """Import, and serve both addresses; return in a fork, which is to run the command of a caller."""
    from assay.environment import SWITCHES

    os.environ.update(SWITCHES)
    for name in [name for name in sys.modules if name.partition(".")[0] == "assay"]:
        del sys.modules[name]
    for name in IMPORTED:
        importlib.import_module(name)
    from dvc.cli.parser import get_main_parser

    get_main_parser()
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as other:
        for listener, name in ((own, "own"), (other, "other")):
            listener.bind(str(folder / name))
            listener.listen()
        is_own = os.fork() == 0
        if is_own:
            for name in OWN:
                importlib.import_module(name)
            from assay.project.modules import code_of

            code_of(ROOT / "src", ["assay.cli.main"], None)  # parsed once: what it read is remembered by content
        else:
            print("ready", flush=True)  # noqa: T201
        gc.collect()
        gc.freeze()  # a fork neither searches nor copies what stands here already
        link = _serve(own if is_own else other)
    _become(link)
    sys.executable = str(folder / "bin" / "python")
    if not is_own:
        tests = {str(ROOT), *PYTHONPATH.split(os.pathsep)}
        paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [*paths, *(path for path in sys.path if path not in tests)]


def _serve(listener: socket.socket) -> socket.socket:
    """Fork for every request until standard input ends; return the caller's socket in the fork."""
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        link, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            break
        link.close()
    worker = os.fork()
    if worker:
        os.closerange(0, 3)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        with contextlib.suppress(OSError):
            link.sendall(str(code).encode())
        os._exit(0)
    return link


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
    obey_fault()


def _end(code: int) -> NoReturn:
    """End as Python does, but leave it to the system to free what was imported, which takes it no time."""
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _run() -> None:
    """Run the command that `sys.argv` names."""
    if sys.argv[0] == "dvc":
        from dvc.cli import main as dvc

        sys.exit(dvc(sys.argv[1:]))
    from assay.cli.main import main

    main(prog_name="assay")


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]))
    try:
        _run()
    except SystemExit as asked:
        if not isinstance(asked.code, int):
            raise
        _end(asked.code)
