"""Bearer tokens: who may ask a service what. A file holds their hashes; a token itself is shown once, kept nowhere."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path

from assay.errors import ConfigError
from assay.parts import replacing

TOKENS = "ASSAY_TOKENS"
TOKEN_ROLES = ("score", "feedback", "admin")  # each may do what those before it may
SECRET_BYTES = 32
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token.

    Attributes
    ----------
    id : str
        Eight hex digits, for people and logs.
    role : str
        One of `TOKEN_ROLES`.
    sha256 : str
        Of the token: of 256 random bits, so that a slow hash would add nothing.
    made : str
        When, UTC.
    """

    id: str
    role: str
    sha256: str
    made: str

    def may(self, role: str) -> bool:
        """Return whether it may do what a role may."""
        return TOKEN_ROLES.index(self.role) >= TOKEN_ROLES.index(role)


def tokens_path(root: Path) -> Path:
    """Return the file of the tokens of a project: ASSAY_TOKENS, or else one in ``.assay``, which Git does not see."""
    return Path(os.environ.get(TOKENS) or root / ".assay" / "tokens.json").resolve()


def read_tokens(path: Path) -> list[Token]:
    """Return the tokens of a file, none where there is no file.

    Raises
    ------
    ConfigError
        It cannot be read, or is no file of tokens.
    """
    try:
        content = json.loads(path.read_bytes())
        tokens = [Token(**each) for each in content["tokens"]]
        is_whole = all(
            token.role in TOKEN_ROLES
            and re.fullmatch("[0-9a-f]{8}", token.id)
            and re.fullmatch("[0-9a-f]{64}", token.sha256)
            for token in tokens
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; the service reads its tokens there") from error
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(f"{path} is no file of tokens; remove it and make new ones with `assay token new ROLE`")
    return tokens


def new_token(path: Path, role: str) -> tuple[Token, str]:
    """Add a token of a role to a file; return what is kept of it, and the token itself."""
    name = secrets.token_hex(4)
    text = f"assay_{name}_{secrets.token_urlsafe(SECRET_BYTES)}"
    token = Token(name, role, _hash(text), datetime.now(UTC).isoformat(timespec="seconds"))
    with _changing(path) as tokens:
        tokens.append(token)
    return token, text


def revoke_token(path: Path, name: str) -> Token:
    """Remove a token, by its id, from a file; a running service refuses it from then on.

    Raises
    ------
    ConfigError
        There is no such token.
    """
    with _changing(path) as tokens:
        for token in tokens:
            if token.id == name:
                tokens.remove(token)
                return token
        raise ConfigError(f"there is no token {name!r} in {path}; `assay token list` names those that there are")


@contextmanager
def _changing(path: Path) -> Iterator[list[Token]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = read_tokens(path)
        yield tokens
        with replacing(path) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(json.dumps({"tokens": list(map(asdict, tokens))}, indent=2).encode() + b"\n")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class TokenFile:
    """The tokens of a file, read again when it changes.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: tuple[int, ...] | None = None
        self._tokens: list[Token] = []

    def find(self, text: str) -> Token | None:
        """Return what is kept of a token, or None; it takes as long for any of them. A damaged file has none."""
        digest, match = _hash(text), None
        for token in self._read():
            if compare_digest(token.sha256, digest):
                match = token
        return match

    def _read(self) -> list[Token]:
        try:
            status = self.path.stat()
            state: tuple[int, ...] | None = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            state = None
        if state is None or state != self._state:
            try:
                self._tokens = read_tokens(self.path)
            except ConfigError as error:
                if state != self._state:
                    _LOGGER.error("%s; until then no token holds", error)
                self._tokens = []
            self._state = state
        return self._tokens
