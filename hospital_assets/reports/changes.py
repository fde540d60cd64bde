"""What has become of a figure, and of the rows behind it, since a version that was published before, and why.

Versions are those of the publication of whoever asks, so nobody learns of the past what the role may not see of the
present. Why a row changed is read off the landed records about it that were first seen since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from hospital_assets.contracts import Contract
from hospital_assets.publishing.publications import Publication, WithdrawnError, moment_of, open_publication, versions
from hospital_assets.reports.explain import Asked, ExplainError, stored_row
from hospital_assets.warehouse.dialect import quoted

#: Columns of a fact that point to who the patient is.
_PERSON = ("patient_key", "person_key")


@dataclass(frozen=True)
class Version:
    """A figure as a version has it."""

    published_at: datetime
    row: dict[str, Any] | None


def published_row(publication: Publication, asked: Asked) -> dict[str, Any] | None:
    """The row of a KPI as a publication has it; None where it has none.

    Raises:
        ExplainError: several rows fit.
    """
    try:
        rows = publication.connection.sql(f"from {asked.kpi.qualified_name}").pl()
    except duckdb.CatalogException:
        return None
    try:
        return stored_row(asked, rows)
    except ExplainError:
        return None


def version_before(data_dir: Path, audience: str, asked: Asked, row: dict[str, Any]) -> Version | None:
    """The newest kept version in which a figure is not what it is now; None where it is in all that may be read."""
    for version in reversed(versions(data_dir, audience)):
        try:
            with open_publication(data_dir, audience, moment_of(version)) as publication:
                before = published_row(publication, asked)
        except WithdrawnError:
            continue
        names = [asked.column] if asked.column else list(before or row)
        if before is None or any(before.get(name) != row.get(name) for name in names if name != "as_of_at"):
            return Version(moment_of(version), before)
    return None


def changed_rows(
    data_dir: Path, audience: str, asked: Asked, fact: Contract, now: pl.DataFrame, since: datetime
) -> pl.DataFrame:
    """How the rows of a fact differ from those of a version: their first key column, `what`, `columns`.

    Args:
        asked: the figure; rows of its hospital and day are compared.
        now: its rows of that hospital and day, with the key and what the figure is computed from.
        since: when the version was published.
    """
    columns = [name for name in now.columns if name not in fact.key]
    of_it, values = asked.rows_of(fact)
    with open_publication(data_dir, audience, since) as publication:
        names = ", ".join(map(quoted, [*fact.key, *columns]))
        before: pl.DataFrame = publication.connection.sql(
            f"select {names} from {fact.qualified_name} where {of_it}", params=values
        ).pl()
    both = before.with_columns(_was=True).join(now.with_columns(_is=True), on=fact.key, how="full", coalesce=True)
    differs = {name: pl.col(name).ne_missing(pl.col(f"{name}_right")) for name in columns}
    is_kept = pl.col("_was").is_not_null() & pl.col("_is").is_not_null()
    return (
        both.with_columns(
            what=pl.when(pl.col("_was").is_null())
            .then(pl.lit("new"))
            .when(pl.col("_is").is_null())
            .then(pl.lit("gone"))
            .when(pl.any_horizontal(pl.lit(False), *differs.values()))
            .then(pl.lit("changed")),
            columns=pl.concat_list(
                pl.lit([], pl.List(pl.String)),
                *(pl.when(is_kept & is_other).then(pl.lit(name)) for name, is_other in differs.items()),
            ).list.drop_nulls(),
        )
        .drop_nulls("what")
        .select(*fact.key, "what", "columns")
    )


def reason(what: str, columns: Sequence[str], seen: Sequence[datetime], since: datetime) -> str:
    """Why a row of a fact is not what it was.

    Args:
        what: `new`, `gone` or `changed`.
        columns: those that differ, of a changed row.
        seen: when each of the landed records about it was first seen.
        since: when the version was published.
    """
    is_newer = [moment > since for moment in seen]
    if what == "new" and is_newer and all(is_newer):
        return "late data: it first landed since"
    if what == "gone" and not seen:
        return "erased: no landed record is left"
    if any(is_newer):
        return "correction: a newer record of it landed since"
    if set(columns) & set(_PERSON):
        return "merge: its record number belongs to another person since"
    return "built anew: reference data, configuration, diagnoses or program changed, none of its own records"
