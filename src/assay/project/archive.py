"""DVC's cache as the archive of what ``data/`` and ``work/`` no longer hold. Nothing here changes it."""

from __future__ import annotations

import configparser
import hashlib
import json
from functools import cached_property
from pathlib import Path

from assay.parts import parse_json

Listing = dict[str, str]


class Archive:
    """The folders that DVC's cache of a project holds, each a listing of paths and MD5s.

    Whoever takes a file from here checks it against the SHA-256 that a record names for it.

    Parameters
    ----------
    root : Path
        Project folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _settings(self) -> configparser.ConfigParser:
        found = configparser.ConfigParser(interpolation=None)
        found.read([self.root / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
        return found

    @cached_property
    def store(self) -> Path:
        """Where the cache keeps its objects by MD5."""
        chosen = self._settings.get("cache", "dir", fallback="cache")
        return self.root / ".dvc" / chosen / "files" / "md5"

    @cached_property
    def remote(self) -> str | None:
        """Name and address of the DVC remote that is the default, or the only one; None where there is none."""
        named = {
            section.split('"')[1]: self._settings[section].get("url", "")
            for section in self._settings.sections()
            if section.startswith("'remote ")
        }
        default = self._settings.get("core", "remote", fallback=next(iter(named), None))
        return None if default is None else f"{default} ({named.get(default, 'address unknown')})"

    @cached_property
    def folders(self) -> dict[str, Listing]:
        """Every folder in the cache: its name (``<md5>.dir``) and its listing; unreadable ones are left out."""
        found = {}
        for path in sorted(self.store.glob("??/*.dir")):
            try:
                listing = {entry["relpath"]: entry["md5"] for entry in parse_json(path.read_bytes())}
            except (ValueError, KeyError, TypeError):
                continue
            found[path.parent.name + path.name] = listing
        return found

    def object(self, md5: str) -> Path | None:
        """Return the cached file of that MD5 by name, None where it is not there."""
        path = self.store / md5[:2] / md5[2:]
        return path if path.is_file() else None

    def folder_with(self, path: str, content: bytes) -> str | None:
        """Return the name of a cached folder in which the file `path` has that content."""
        wanted = md5_of(content)
        return next((name for name, listing in self.folders.items() if listing.get(path) == wanted), None)

    def folders_with(self, *paths: str) -> list[Listing]:
        """Return the listings of the cached folders that hold all these paths."""
        return [listing for listing in self.folders.values() if all(path in listing for path in paths)]

    def version_in(self, folder: str, name: str) -> str | None:
        """Return what DVC calls the folder `name` inside the cached folder `folder`, None where it has none."""
        inside = self._inside(folder, name)
        return version_of(inside) if inside else None

    def data(self, name: str, version: str) -> Listing | None:
        """Return the listing of a folder `name` of that version, from whichever cached folder holds it."""
        found = (folder for folder in self.folders if self.version_in(folder, name) == version)
        return next((self._inside(folder, name) for folder in found), None)

    def _inside(self, folder: str, name: str) -> Listing:
        start = f"{name}/"
        return {path.removeprefix(start): md5 for path, md5 in self.folders[folder].items() if path.startswith(start)}


def version_of(listing: Listing) -> str:
    """Return what DVC calls a folder of that listing; see `assay.hashing.dvc_directory_md5`."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(listing.items())]
    return md5_of(json.dumps(entries, sort_keys=True).encode()) + ".dir"


def md5_of(content: bytes) -> str:
    """Return the MD5 of `content` in hex, by which DVC names it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
