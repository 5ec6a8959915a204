"""Names that are the same on every machine: the namespace of a project, and the commit that its code is of."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from assay.project import versioning

RUN, INGEST, PROMOTE = WHOLE_JOBS = ("run", "ingest", "promote")  # jobs that are no stages
_OF_SSH = re.compile(r"(?:[^@/:]+@)?(?P<host>[^:/]+):(?P<path>.+)")


def namespace_of(root: Path) -> str:
    """Return the namespace of a project's jobs and datasets.

    That is ``OPENLINEAGE_NAMESPACE``; or else the place of the Git remote, such as ``example.org/team/plant``; or else
    the name of the project's folder.
    """
    return os.environ.get("OPENLINEAGE_NAMESPACE") or _place(root) or root.name


@lru_cache(maxsize=16)
def _place(root: Path) -> str:
    remote = versioning.default_remote(root)
    if not remote:
        return ""
    url = (versioning.git(root, "config", "--get", f"remote.{remote}.url") or b"").decode().strip()
    return "/".join(filter(None, (place_of(url), versioning.prefix(root).rstrip("/"))))


def place_of(url: str) -> str:
    """Return host and path of a Git remote, without scheme, user and password; of a folder its name alone.

    It is empty where a password with signs that stand for something else in an address could show.
    """
    if "://" in url:
        try:
            parts = urlsplit(url)
            host, path = parts.hostname or "", parts.path
            host += f":{parts.port}" if host and parts.port else ""
        except ValueError:
            return ""
        if "@" in url.partition("://")[2].removeprefix(parts.netloc):
            return ""
    elif matched := _OF_SSH.fullmatch(url):
        host, path = matched["host"], matched["path"]
    else:
        host, path = "", url
    path = path.strip("/").removesuffix(".git")
    return f"{host}/{path}" if host else path.rpartition("/")[2]


def code_location(root: Path) -> dict[str, str] | None:
    """Return what the facet of a job's source code says: the repository and the commit; None where there is none."""
    commit, place = versioning.head_commit(root), _place(root) or root.name
    if not commit:
        return None
    url = f"https://{place}" if "/" in place else f"git:{place}"
    return {"type": "git", "url": url.replace(" ", "%20"), "version": commit}
