"""Tokens in place of identifiers: equal for equal values within an audience, different between audiences.

Two ways. `hmac`: HMAC-SHA256 under a secret key with the audience and the kind of identifier in the
message, computed inside DuckDB; tokens stay the same from version to version, so an analyst's notes stay
useful. `random`: numbers drawn by lot for each version; nothing about a person goes into them.
The key is never stored with the data, in a publication or in a log.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

from hospital_assets.files import why_not_secret
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.warehouse.dialect import literal, quoted

KEY_VARIABLE = "HOSPITAL_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "HOSPITAL_PSEUDONYM_KEY_FILE"
#: What whoever has made a key is told with its path.
KEEP_KEY = "(mode 0600). Keep a copy where you keep secrets, never with the data."
_BLOCK_BYTES = 64
_KEY_BYTES = 32
#: Characters of a text token: 80 bits, so that not even 10^9 values are likely to collide.
_TEXT_CHARACTERS = 20
#: What every text token looks like; no identifier does, which the leak check relies on.
TOKEN_SHAPE = r"^(x[0-9a-f]{20}|r[0-9]+)$"  # noqa: S105  (a pattern)


class KeyMissingError(SettingsError):
    """There is no usable pseudonym key; the message says how to make one."""


@dataclass(frozen=True)
class SecretKey:
    """A secret key and the name it goes by in manifests.

    Attributes:
        value: never shown.
        key_id: tells keys apart, tells nothing about them.
    """

    value: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Eight characters that change with the key."""
        return hmac.new(self.value, b"key id", hashlib.sha256).hexdigest()[:8]

    def derived(self, purpose: str) -> bytes:
        """A key for another purpose, from which this one cannot be found."""
        return hmac.new(self.value, purpose.encode(), hashlib.sha256).digest()


def key_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the key is looked for when it is not in the environment."""
    named = environment.get(KEY_FILE_VARIABLE)
    if named:
        return Path(named)
    config = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "hospital_assets" / "pseudonym.key"


def load_key(settings: Settings, environment: Mapping[str, str] = os.environ) -> SecretKey:
    """The pseudonym key: from the environment, or from a file only its owner can read.

    Raises:
        KeyMissingError: there is none, it is too short, or it lies where others can get at it.
    """
    remedy = f"make one with `hospital key create`, or set {KEY_VARIABLE} to 64 hex digits"
    text = environment.get(KEY_VARIABLE, "").strip()
    if text:
        return _parse(text, KEY_VARIABLE, remedy)
    path = key_file(environment)
    try:
        text, problem = path.read_text(encoding="ascii").strip(), why_not_secret(path)
    except FileNotFoundError:
        raise KeyMissingError(f"no pseudonym key: {path} is not there; {remedy}") from None
    if path.resolve().is_relative_to(settings.data_dir):
        raise KeyMissingError(
            f"{path} lies in the data directory: anyone who copies the data would have the key; "
            f"move it elsewhere and set {KEY_FILE_VARIABLE}"
        )
    if problem:
        raise KeyMissingError(problem)
    return _parse(text, str(path), remedy)


def has_key(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a key was ever made or given, usable or not."""
    return bool(environment.get(KEY_VARIABLE, "").strip()) or key_file(environment).exists()


def create_key(settings: Settings, environment: Mapping[str, str] = os.environ) -> Path:
    """Make a key file with mode 0600, outside the data directory; never replaces one.

    Raises:
        KeyMissingError: there is one already, or the place is inside the data directory.
    """
    path = key_file(environment)
    if path.resolve().is_relative_to(settings.data_dir):
        raise KeyMissingError(f"{path} lies in the data directory; set {KEY_FILE_VARIABLE}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyMissingError(
            f"{path} is there already; with another key every token changes. To change it on "
            "purpose, move the file away first and publish again afterwards"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    return path


def _parse(text: str, name: str, remedy: str) -> SecretKey:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise KeyMissingError(f"{name} is not hexadecimal; {remedy}") from None
    if len(value) < _KEY_BYTES:
        raise KeyMissingError(f"{name} is shorter than {_KEY_BYTES} bytes; {remedy}")
    return SecretKey(value)


@dataclass(frozen=True)
class TokenMap:
    """A temporary table (raw, token) of one domain."""

    domain: str
    table: str


def make_tokens(
    connection: duckdb.DuckDBPyConnection,
    audience: str,
    domain: str,
    sources: Sequence[tuple[str, str]],
    way: Literal["hmac", "random"],
    key: SecretKey | None,
) -> TokenMap:
    """Give every value of a domain its token, as a temporary table.

    Args:
        audience: whose tokens; those of another audience differ.
        domain: the kind of identifier.
        sources: (query that can stand after `from`, column) pairs, all text or all integers.

    Raises:
        KeyMissingError: the keyed hash was asked for without a key.
        ValueError: two values got the same token.
    """
    table = f"tokens_{domain}"
    values = " union ".join(
        f"select {quoted(column)} as raw from {source} where {quoted(column)} is not null" for source, column in sources
    )
    if way == "hmac" and key is None:
        raise KeyMissingError("tokens need the pseudonym key")
    # Drawn by lot: the order of a hash under a key that exists for this one statement only.
    secret = key.value if way == "hmac" and key else secrets.token_bytes(_KEY_BYTES)
    inner, outer = _pads(secret)
    kind = connection.execute(f"select typeof(raw) from ({values}) limit 1").fetchall()
    is_text = not kind or kind[0][0] == "VARCHAR"
    digest = f"sha256($outer || unhex(sha256($inner || encode({literal(f'{audience}|{domain}|')} || raw::varchar))))"
    if way == "random":
        number = f"row_number() over (order by {digest})"
        token = f"'r' || {number}" if is_text else number
    elif is_text:
        token = f"'x' || left({digest}, {_TEXT_CHARACTERS})"
    else:
        token = f"('0x' || left({digest}, 15))::bigint"
    special = "" if is_text else "when raw < 0 then raw "
    connection.execute(
        f"create or replace temp table {table} as "
        f"select raw, {f'case {special}else {token} end' if special else token} as token "
        f"from ({values})",
        {"inner": inner, "outer": outer},
    )
    ((count, tokens),) = connection.execute(f"select count(*), count(distinct token) from {table}").fetchall()
    if count != tokens:
        raise ValueError(f"{audience}: two values of '{domain}' got the same token; change the key")
    return TokenMap(domain, table)


def _pads(secret: bytes) -> tuple[bytes, bytes]:
    """The inner and outer pads of HMAC-SHA256 (RFC 2104)."""
    if len(secret) > _BLOCK_BYTES:
        secret = hashlib.sha256(secret).digest()
    block = secret.ljust(_BLOCK_BYTES, b"\0")
    return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)
