"""What does the work of a run: processes of this machine, or a Dask cluster."""

from __future__ import annotations

from importlib.util import find_spec

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
    kind = kind or (DASK if address else settings["runner"])
    if kind == LOCAL:
        if address:
            raise ConfigError(f"--address {address} is that of a Dask scheduler; give --runner dask with it")
        return WorkRunner(project.root, settings["cells_at_once"])
    if find_spec("distributed") is None:
        raise ConfigError("the runner dask needs Dask, which is not installed; `pip install 'assay[dask]'`")
    from assay.project.cluster import DaskRunner

    return DaskRunner(project.root, settings["cells_at_once"], settings["address"] if address is None else address)
