"""What goes wrong with a table, in words that quote no record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import duckdb
import polars as pl

from hospital_assets.contracts import CONTRACTS

#: What DuckDB makes of a signal that meets it at work: an ordinary error, of which Python hears no more.
INTERRUPTED = "Query interrupted"


def heed_interruption(error: BaseException) -> None:
    """Go on where an error is one, for who carries on after any: a signal must not be taken for a fault of a file.

    Raises:
        KeyboardInterrupt: it is DuckDB's word for a signal.
    """
    if isinstance(error, RuntimeError) and INTERRUPTED in str(error):
        raise KeyboardInterrupt from None


def causes_of(error: BaseException) -> list[BaseException]:
    """An error and what led to it, the last one first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


class WarehouseError(Exception):
    """A table could not be written or read; the message says which, why, and what to do."""


_COLUMN_NAMES = frozenset(c.name for contract in CONTRACTS.values() for c in contract.columns)


def redacted(error: duckdb.Error | pl.exceptions.PolarsError) -> str:
    """An engine's message of an error without any value: its own text may quote a cell.

    Names of columns stay; every other quoted text, and all that follows `Input`, is left out.
    """
    message = re.split(r"\bInput:|\bStack Trace|\n", str(error).strip(), maxsplit=1)[0]
    message = re.sub(
        r"([\"'])(.*?)\1", lambda found: found.group(0) if found.group(2) in _COLUMN_NAMES else "'...'", message
    )
    return f"{type(error).__name__}: {re.sub(r'[0-9]{3,}', '...', message)[:200]}"


@contextlib.contextmanager
def without_values(doing: str) -> Iterator[None]:
    """Turn an engine's errors into ours, so that no value of a record reaches a log.

    Raises:
        WarehouseError: says what was being done and the engine's redacted reason.
    """
    try:
        yield
    except (duckdb.Error, pl.exceptions.PolarsError) as error:
        raise WarehouseError(f"{doing}: {redacted(error)}") from None
