"""What does the work of a run: processes of this machine, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from assay.environment import n_processors
from assay.errors import ConfigError
from assay.project.layout import Project
from assay.project.work import WorkRunner

LOCAL, DASK = "local", "dask"


def open_runner(project: Project, kind: str | None = None, address: str | None = None) -> WorkRunner:
    """Return what does the work of a run, to be used in a ``with`` block; see `WorkRunner`.

    Parameters
    ----------
    project : Project
    kind : {"local", "dask"}, optional
        Default: ``run.runner`` in params.yaml, or "dask" where there is an address.
    address : str, optional
        Of a Dask scheduler, as ``tcp://HOST:8786`` or ``tls://HOST:8786``; "" for workers on this machine, which end
        with the block. Default: ``run.address``.

    Raises
    ------
    ConfigError
        Dask is not installed, or the address is not for this kind of runner.
    """
    settings = project.config.sections["run"]
    at_once = n_processors() if settings["cells_at_once"] == "auto" else settings["cells_at_once"]
    kind = kind or (DASK if address else settings["runner"])
    if kind == LOCAL:
        if address:
            raise ConfigError(f"--address {address} is that of a Dask scheduler; give --runner dask with it")
        return WorkRunner(project.root, at_once)
    if find_spec("distributed") is None:
        raise ConfigError("the runner dask needs Dask, which is not installed; `pip install 'assay[dask]'`")
    from assay.project.cluster import DaskRunner

    return DaskRunner(project.root, at_once, settings["address"] if address is None else address)


@contextmanager
def cells_elsewhere(
    project: Project, stale: Collection[str], kind: str | None = None, address: str | None = None
) -> Iterator[int]:
    """Open the runner for the cells of a run; yields how many it does at the same time.

    That is 0 where they are done in this process, one after the other, or where nothing is to do before them or for
    them. See `open_runner` for what is raised.

    Parameters
    ----------
    project : Project
    stale : collection of str
        Names of the stages that are not fresh.
    kind, address : str, optional
        See `open_runner`.
    """
    stages = list(project.stages.values())
    last_cell = max(number for number, stage in enumerate(stages) if stage.detector is not None)
    if not any(stage.name in stale for stage in stages[: last_cell + 1]):
        yield 0
        return
    with open_runner(project, kind, address) as runner:
        yield 0 if type(runner) is WorkRunner and runner.slots == 1 else runner.slots
