"""Which JWT keys the mesh trusts: those of the configuration, and those of the past until their last token has ended.

What signed is written down (its public half only) before anything is signed, so that a key that was replaced or taken
away stays published for as long as a token by it can hold, whenever and however the CA was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from node_ca.config import JwtConfig
from node_ca.errors import ConfigError
from node_ca.jwt_key import JwtKey
from node_ca.private_file import write_private

BOOK_FILE = "jwt-keys.json"


class _Past(Struct, frozen=True):
    jwk: dict[str, str]
    until: float
    """Unix time, seconds."""


class _Book(Struct, frozen=True):
    signer: dict[str, str] | None = None
    lifetime: float = 0.0
    """Of the tokens that it signs, seconds."""
    past: tuple[_Past, ...] = ()
    version: Literal[1] = 1


class JwtKeys:
    """The key that signs (None: there is none), and all that are trusted."""

    def __init__(self, signer: JwtKey | None, others: Iterable[JwtKey], past: Iterable[_Past]) -> None:
        self.signer = signer
        self._present = {key.id: key.jwk for key in (*((signer,) if signer else ()), *others)}
        self._past = tuple(past)

    @classmethod
    def open(cls, directory: Path, config: JwtConfig, now: float) -> JwtKeys:
        """Read the keys and bring the book up to date; raises ConfigError with every fault."""
        signer, others = configured(config)
        before = _read(directory / BOOK_FILE)
        past = {each.jwk["kid"]: each for each in before.past if each.until > now}
        if before.signer is not None and (signer is None or signer.id != before.signer["kid"]):
            past[before.signer["kid"]] = _Past(before.signer, now + before.lifetime)
        if signer is not None:
            past.pop(signer.id, None)
        # A shorter lifetime must not make one forget the tokens that were given out with the longer one.
        earlier = before.lifetime if signer and before.signer == signer.jwk else 0.0
        book = _Book(past=tuple(past.values()))
        if signer is not None:
            book = _Book(signer.jwk, max(float(config.lifetime), earlier), book.past)
        if book != before:
            write_private(directory / BOOK_FILE, msgspec.json.encode(book))
        return cls(signer, others, book.past)

    def jwks(self, now: float) -> bytes:
        """Return the public keys (RFC 7517, JSON), in one order at every CA; empty if there are none."""
        past = {each.jwk["kid"]: each.jwk for each in self._past if each.until > now}
        keys = [jwk for _, jwk in sorted((past | self._present).items())]
        return json.dumps({"keys": keys}, sort_keys=True).encode() if keys else b""


def configured(config: JwtConfig) -> tuple[JwtKey | None, list[JwtKey]]:
    """Return the key that signs and the others; raises ConfigError with every fault."""
    problems: list[str] = []
    files = [("keyFile", config.key_file)] if config.key_file else []
    files += [(f"otherKeyFiles[{index}]", path) for index, path in enumerate(config.other_key_files)]
    keys = {}
    for name, path in files:
        try:
            keys[name] = JwtKey.from_pem(Path(path).read_bytes(), f"jwt.{name}: {path}")
        except OSError as error:
            problems.append(f"jwt.{name}: {path}: cannot be read: {error.strerror}")
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return keys.pop("keyFile", None), list(keys.values())


def _read(path: Path) -> _Book:
    try:
        book = msgspec.json.decode(path.read_bytes(), type=_Book)
    except FileNotFoundError:
        return _Book()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except msgspec.DecodeError as error:
        raise ConfigError([_damaged(path, str(error))]) from error
    named = (*((book.signer,) if book.signer is not None else ()), *(each.jwk for each in book.past))
    if not all(jwk.get("kid") for jwk in named):
        raise ConfigError([_damaged(path, "a key has no kid")])
    return book


def _damaged(path: Path, why: str) -> str:
    return f"{path}: is damaged ({why}): remove it; tokens by a JWT key that was replaced just now are refused then"
