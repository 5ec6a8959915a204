"""Read-only access to DVC's cache, which holds what ``data/`` and ``work/`` no longer do."""

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

    Callers have to check each file against the SHA-256 in its record.

    Parameters
    ----------
    root : Path
        Project folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _settings(self) -> configparser.ConfigParser:
        settings = configparser.ConfigParser(interpolation=None)
        settings.read([self.root / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
        return settings

    @cached_property
    def store(self) -> Path:
        """Folder of the cache's objects, by MD5."""
        chosen = self._settings.get("cache", "dir", fallback="cache")
        return self.root / ".dvc" / chosen / "files" / "md5"

    @cached_property
    def remote(self) -> str | None:
        """Name and address of the DVC remote that is the default, or the only one; None where there is none."""
        addresses = {
            section.split('"')[1]: self._settings[section].get("url", "")
            for section in self._settings.sections()
            if section.startswith("'remote ")
        }
        default = self._settings.get("core", "remote", fallback=next(iter(addresses), None))
        return None if default is None else f"{default} ({addresses.get(default, 'address unknown')})"

    @cached_property
    def folders(self) -> dict[str, Listing]:
        """Every folder in the cache: its name (``<md5>.dir``) and its listing; unreadable ones are left out."""
        listings = {}
        for path in sorted(self.store.glob("??/*.dir")):
            try:
                listing = {entry["relpath"]: entry["md5"] for entry in parse_json(path.read_bytes())}
            except (ValueError, KeyError, TypeError):
                continue
            listings[path.parent.name + path.name] = listing
        return listings

    def object(self, md5: str) -> Path | None:
        """Return the cached file of that MD5 by name, None where it is not there."""
        path = self.store / md5[:2] / md5[2:]
        return path if path.is_file() else None

    def folder_with(self, path: str, content: bytes) -> str | None:
        """Return the name of a cached folder in which the file `path` has that content."""
        md5 = md5_of(content)
        return next((name for name, listing in self.folders.items() if listing.get(path) == md5), None)

    def folders_with(self, *paths: str) -> list[Listing]:
        """Return the listings of the cached folders that hold all these paths."""
        return [listing for listing in self.folders.values() if all(path in listing for path in paths)]

    def version_in(self, folder: str, name: str) -> str | None:
        """Return DVC's hash of the folder `name` inside the cached folder `folder`, None where it has none."""
        inside = self._inside(folder, name)
        return listed_version(inside) if inside else None

    def data(self, name: str, version: str) -> Listing | None:
        """Return the listing of a folder `name` of that version, from any cached folder that holds it."""
        holders = (folder for folder in self.folders if self.version_in(folder, name) == version)
        return next((self._inside(folder, name) for folder in holders), None)

    def _inside(self, folder: str, name: str) -> Listing:
        start = f"{name}/"
        return {path.removeprefix(start): md5 for path, md5 in self.folders[folder].items() if path.startswith(start)}


def listed_version(listing: Listing) -> str:
    """Return DVC's hash of a folder with that listing; see `assay.hashing.dvc_directory_md5`."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(listing.items())]
    return md5_of(json.dumps(entries, sort_keys=True).encode()) + ".dir"


def md5_of(content: bytes) -> str:
    """Return the MD5 of `content` in hex, by which DVC names it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
