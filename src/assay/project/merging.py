"""Git's merge driver for .dvc files: DVC's own merge of folders, after fetching the listings that it compares.

Two people's ingests change the same data.dvc, and two machines may give the same scorer different statements. In both
cases files were added to one folder, and the merged folder has all of them. DVC's own driver fails where the listing of
the other person's folder is not in the cache yet, as after `git pull`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from assay.errors import AssayError, ToolError
from assay.parts import temporary_prefix
from assay.project import versioning

_MODULE = "assay.project.merging"


def set_merge_driver(root: Path) -> None:
    """Tell the project's Git repository, if it has one, how to merge .dvc files; another driver of that name stays.

    ``.gitattributes`` names the driver, but Git takes commands from its own configuration alone.
    """
    command = f"{shlex.quote(sys.executable)} -m {_MODULE} %O %A %B %P"
    current = (versioning.git(root, "config", "--get", "merge.dvc.driver") or b"").decode().strip()
    if current != command and (not current or _MODULE in current):
        versioning.git(root, "config", "merge.dvc.name", "folders that DVC tracks")
        versioning.git(root, "config", "merge.dvc.driver", command)


def merge_pointers(ancestor: Path, ours: Path, theirs: Path, root: Path) -> None:
    """Write the merge of three versions of a .dvc file to `ours`.

    Parameters
    ----------
    ancestor, ours, theirs : Path
        The versions; an empty `ancestor` where there is none.
    root : Path
        Project folder.

    Raises
    ------
    ToolError
        The same file was changed in different ways, or a listing is in neither DVC's cache nor its remote.
    """
    from dvc.dvcfile import load_file
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # DVC takes paths in a .dvc file as relative to it, so copies in the project are merged.
    with tempfile.TemporaryDirectory(dir=root, prefix=temporary_prefix("dvc-merge")) as folder, Repo(str(root)) as repo:
        versions = []
        for number, path in enumerate((ancestor, ours, theirs)):
            copy = Path(folder) / f"{number}.dvc"
            shutil.copyfile(path, copy)
            version = load_file(repo, str(copy), verify=False)
            for out in version.stage.outs:
                if out.is_dir_checksum and out.get_dir_cache() is None:
                    raise ToolError(
                        f"the listing of {out.hash_info.value} is in neither DVC's cache nor its remote; "
                        "`dvc push` where it was made, then merge again"
                    )
            versions.append(version)
        try:
            versions[1].merge(versions[0], versions[2], allowed=["add", "remove", "change"])
        except DvcException as error:
            raise ToolError(" ".join(str(error).split())) from error
        shutil.copyfile(Path(folder) / "1.dvc", ours)


def merge_for_git(ancestor: str, ours: str, theirs: str, path: str) -> int:
    """Merge as Git asks for it, in the root of its work tree; return the exit code."""
    target = Path(path).resolve()
    root = next((folder for folder in target.parents if (folder / ".dvc").is_dir()), Path.cwd())
    try:
        merge_pointers(Path(ancestor).resolve(), Path(ours).resolve(), Path(theirs).resolve(), root)
    except AssayError as error:
        sys.stderr.write(f"assay: {path} was not merged: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    sys.exit(merge_for_git(*sys.argv[1:]))
