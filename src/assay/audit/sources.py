"""Checks of what a scorer was made from: data, settings and code, as they are now or as Git keeps them."""

from __future__ import annotations

import assay
from assay.audit.chain import Chain, before_entries, event_of, where_from
from assay.audit.commits import commit_with, without_git
from assay.audit.findings import INTACT, NOT_HERE, UNCHECKED, CheckResult
from assay.hashing import dvc_directory_md5, hash_file
from assay.project.anchors import bento_folder
from assay.project.installed import described, hash_code, named, recorded_digest, recorded_files
from assay.project.modules import VERSIONS
from assay.project.versioning import DATA, committed_version, tracked_version


def check_data(chain: Chain) -> CheckResult:
    data = chain.project.root / "data" / chain.name
    if not data.is_dir():
        return NOT_HERE, f"{data}; `assay restore` brings it back"
    version = dvc_directory_md5(data)
    if version == chain.data_version:
        return "ok", version
    message = f"now {version}, the scorer learned from {chain.data_version}"
    changed = _changed(chain, chain.data)
    if event_of(chain, "ingested", dataset=chain.name, data_version=version) is None:
        return "differs", f"{message}: {', '.join(changed) or 'a file was added'}"
    missing = [path for path in chain.data if chain.find_data(path) is None]
    if missing:
        return UNCHECKED, f"{message}; {', '.join(missing)} is lost from DVC's cache; {where_from(chain.archive)}"
    return "superseded", f"{message}; DVC's cache holds the recorded bytes, intact"


def check_tracked(chain: Chain) -> CheckResult:
    """Compare data.dvc with the log or Git, and with the data version if DVC's cache holds the folder it names."""
    tracked = tracked_version(chain.project.root)
    if tracked is None:
        return "differs", "is missing"
    logged = {event.get("tracked") for event in chain.events if event.get("event") in ("ingested", "restored")}
    if tracked not in logged and tracked != committed_version(chain.project.root):
        message = f"{DATA} names {tracked}, which was neither ingested here nor committed to Git"
        return "differs", message + without_git()
    if tracked not in chain.archive.folders:
        return "ok", f"names {tracked}"
    version = chain.archive.version_in(tracked, chain.name)
    if version == chain.data_version:
        return "ok", f"names {tracked}, and in it the recorded data version"
    return "superseded", f"names {tracked}, and in it {version} for data/{chain.name}"


def check_setting(chain: Chain, path: str) -> CheckResult:
    """Check a file that users may edit, such as a suite: an edit that Git or the log knows is no tampering.

    Neither are entries in a file of labels or target rows that was empty.
    """
    current = chain.project.root / path
    if not _changed(chain, {path: chain.settings[path]}):
        return INTACT
    change = f"{path} was edited since" if current.is_file() else f"{path} is missing"
    commit = commit_with(chain.project.root, path, chain.settings[path])
    if commit is not None:
        return "superseded", f"{change}; commit {commit[:12]} holds the recorded one"
    if before_entries(path, chain.settings[path]) is not None:
        return "superseded", f"{change}; the recorded one had no entries"
    if current.is_file() and any(hash_file(current) in event.values() for event in chain.events):
        return "superseded", f"{change}, as was logged; no Git commit holds the recorded one"
    return UNCHECKED, f"{change}, and no Git commit holds the recorded one{without_git()}"


def _changed(chain: Chain, recorded: dict[str, str]) -> list[str]:
    """Return the files of the project, or of the installed Assay, that differ from the recorded ones."""
    root = chain.project.root
    hashes = hash_code(root, recorded)
    return [path for path, digest in sorted(recorded.items()) if hashes.get(path) != digest]


def check_code(chain: Chain) -> CheckResult:
    """Check the code: a change is no tampering if the Bento or Git holds the recorded file.

    Neither is another installed version of Assay: the record says which one to install again.
    """
    changed = _changed(chain, chain.code)
    if chain.made_by:
        message = f"made by Assay {chain.made_by}, installed is {assay.__version__}"
        if not changed:
            return "ok", f"{message}: the same {described(chain.code)}"
        if chain.made_by != assay.__version__:
            return "superseded", f"{message}: other {named(changed)}"
    if not changed:
        return "ok", described(chain.code)
    missing = [path for path in changed if not _kept(chain, path)]
    if missing:
        message = f"{', '.join(missing)}: changed since, and neither the Bento nor Git holds the recorded one"
        return ("differs" if chain.made_by else UNCHECKED), message + without_git()
    return "superseded", f"{', '.join(changed)}: changed since; the Bento or Git holds the recorded one"


def _kept(chain: Chain, path: str) -> bool:
    """Return whether a recorded file of code is kept; a recorded version can be installed again."""
    if path.startswith(VERSIONS):
        return True
    digest, bento = chain.code[path], bento_folder(chain.project.root, chain.statement.tag)
    held = recorded_files(path)
    kept = any(
        (bento / name).is_file() and recorded_digest(path, (bento / name).read_bytes()) == digest for name in held
    )
    return kept or any(commit_with(chain.project.root, name, digest, recorded=path) is not None for name in held)
