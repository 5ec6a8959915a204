"""What the system refuses, in one sentence: a full disk, a read-only project, a folder where a file should be."""

from __future__ import annotations

import errno
import os

_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again; nothing is half-written",
    errno.EDQUOT: "free some space and run the same command again; nothing is half-written",
    errno.EROFS: "what only reads works here: assay audit show, verify, who-saw; work in a copy that can be written",
    errno.EACCES: "ask its owner for the permission, or work in a copy of your own",
    errno.EPERM: "ask its owner for the permission, or work in a copy of your own",
    errno.EISDIR: "a folder is where a file should be; move it away, or restore the file from Git",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
    errno.EEXIST: "a file is where a folder should be; move it away",
    errno.ENOENT: "it is missing, or a link that leads nowhere; restore it, or remove the link",
    errno.ELOOP: "the link leads to itself; remove it",
    errno.EMFILE: "close other programs, or raise the limit (`ulimit -n`)",
}


def refusal(error: OSError) -> str:
    """Return an error of the system as one sentence: what, where, and what to do."""
    where = "" if error.filename in (None, "") else f"{os.fsdecode(error.filename)}: "
    number = error.errno or 0
    what = os.strerror(number).lower() if number in errno.errorcode else str(error)
    return "; ".join(filter(None, (f"{where}{what}", _ADVICE.get(number, ""))))
