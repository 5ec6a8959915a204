"""Files by their content in a DVC remote, where DVC itself looks for them."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from assay.errors import ConfigError, TamperedError


def remote_settings(root: Path, *, shared: bool) -> dict[str, Any]:
    """Return the settings of a project's default DVC remote, with its name as ``name``.

    Parameters
    ----------
    root : Path
        Project folder.
    shared : bool
        Only those that are in Git: passwords and keys, which belong to ``config.local``, stay on this machine.

    Raises
    ------
    ConfigError
        There is none, or DVC cannot read its settings.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        config = Config(str(root / ".dvc"), validate=False)
        content = config.load_one("repo") if shared else config.load_config_to_level()
        core = config.load_config_to_level().get("core", {})
    except DvcException as error:
        raise ConfigError(f"DVC cannot read its settings in {root / '.dvc'}: {error}") from error
    remotes = content.get("remote", {})
    name = core.get("remote") or next(iter(remotes), None)
    if name not in remotes or not remotes[name].get("url"):
        raise ConfigError(
            f"workers that do not see {root} exchange files by a DVC remote, and .dvc/config names none with a url; "
            "`dvc remote add -d NAME URL`, or let the workers see this folder at the same path"
        )
    return {"name": name, **remotes[name]}


class Store:
    """The files of a DVC remote by their MD5.

    Parameters
    ----------
    settings : dict
        See `remote_settings`. What the user's or the system's DVC has for a remote of that name is added to them.

    Raises
    ------
    ConfigError
        DVC cannot use such a remote here.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from dvc.config import Config
        from dvc.exceptions import DvcException
        from dvc.fs import get_cloud_fs

        of_machine: dict[str, Any] = {}
        for level in ("system", "global"):
            of_machine |= Config(validate=False).load_one(level).get("remote", {}).get(settings["name"], {})
        given = {name: value for name, value in {**of_machine, **settings}.items() if name != "name"}
        try:
            cls, conf, self._root = get_cloud_fs(None, **given)
            self._fs: Any = cls(**conf)
        except (DvcException, ImportError) as error:  # the latter where a package such as dvc-s3 is missing
            raise ConfigError(
                f"{socket.gethostname()} cannot use the DVC remote {settings['name']}: {error}"
            ) from error

    def _path(self, md5: str) -> str:
        path: str = self._fs.join(self._root, "files", "md5", md5[:2], md5[2:])
        return path

    def has(self, md5: str) -> bool:
        """Return whether there is a file of that MD5."""
        return bool(self._fs.exists(self._path(md5)))

    def put(self, path: Path, md5: str) -> None:
        """Let the store have a file, of that MD5; it appears whole or not at all.

        Raises
        ------
        OSError
            It has another MD5 by now, or cannot be stored.
        """
        from dvc_objects.fs.utils import as_atomic

        if not self.has(md5):
            with as_atomic(self._fs, self._path(md5), create_parents=True) as temporary:
                self._fs.put_file(str(path), temporary)
                if file_md5(path) != md5:
                    raise OSError(f"{path} was changed while it was stored; run again")

    def get(self, md5: str, path: Path) -> None:
        """Write the file of that MD5 to `path`, whole or not at all.

        Raises
        ------
        TamperedError
            What is stored under that name has another MD5.
        OSError
            It is not there.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            self._fs.get_file(self._path(md5), str(temporary))
            if file_md5(temporary) != md5:
                raise TamperedError(
                    f"the DVC remote holds other content under the MD5 {md5}; find out why, then remove "
                    f"{self._path(md5)}, and run again"
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def file_md5(path: Path) -> str:
    """Return the MD5 of a file in hex, by which DVC names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
