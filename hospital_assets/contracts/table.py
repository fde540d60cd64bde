"""What a contract is made of: a Pandera model with a name, a layer, a grain, a key and the names of its columns.

    class FactDoctorShifts(
        DatedFact,
        name="fact_doctor_shifts",
        grain="one doctor shift",
        key=("shift_id",),
        columns="doctor_key hospital_key start_date_key shift_start_at shift_end_at shift_hours",
    ):
        start_date_key = column("Of the shift.")
        shift_hours = column(gt=0)

What a column is, its field says (contracts/fields.py); `column` adds what is particular to it in this table.

Belongs here: the base model, the column helper, and what every contract can say about itself
(DuckDB types, columns, rule groups). Does not: any concrete table, any Dagster or DuckDB call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import pandera.polars as pa
import polars as pl

from hospital_assets.contracts.fields import FIELDS, Field, Privacy, as_landed

Layer = Literal["raw", "cleaned", "dimensions", "facts", "kpis", "forecasts"]
#: In the order data passes through them.
LAYERS: tuple[Layer, ...] = get_args(Layer)

_DUCKDB_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "VARCHAR",
    pl.Boolean: "BOOLEAN",
    pl.Int16: "SMALLINT",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Float64: "DOUBLE",
    pl.Date: "DATE",
}

#: Why some tables hold a column of a stricter class openly.
PUBLIC_PLACE = "where a hospital stands is public"
COUNTED = "a row counts many and is about nobody"

#: The column that partitioned tables are partitioned by.
PARTITION_COLUMN = "service_date"
#: Where a landed record stands, which identifies it.
RECORD_PLACE = ("source_file", "source_line", "source_part")


def duckdb_type(dtype: pl.DataType) -> str:
    """The DuckDB type that stores a Polars type without loss.

    Raises:
        TypeError: no contract may use this type, because it does not survive the round trip.
    """
    if isinstance(dtype, pl.Datetime):
        return "TIMESTAMPTZ" if dtype.time_zone else "TIMESTAMP"
    if isinstance(dtype, pl.List):
        return f"{duckdb_type(_instance(dtype.inner))}[]"
    if isinstance(dtype, pl.Decimal):
        return f"DECIMAL({dtype.precision},{dtype.scale})"
    try:
        return _DUCKDB_TYPES[type(dtype)]
    except KeyError:
        raise TypeError(f"contracts do not support the Polars type {dtype}") from None


def _instance(dtype: Any) -> pl.DataType:
    instance: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return instance


@dataclass(frozen=True)
class Clause:
    """What a table adds to or overrides in a column's field; made by `column`."""

    note: str = ""
    nullable: bool | None = None
    references: str | None = None
    plausible: tuple[float, float] | None = None
    compression: str | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)
    instead: Mapping[str, Any] = field(default_factory=dict)
    because: str = ""


def column(
    note: str = "",
    *,
    nullable: bool | None = None,
    references: str | None = None,
    plausible: tuple[float, float] | None = None,
    compression: str | None = None,
    because: str = "",
    description: str | None = None,
    privacy: Privacy | None = None,
    **checks: Any,
) -> Any:
    """Declare what is particular to a column in one table; the rest comes from its field (contracts/fields.py).

    Args:
        note: what the value is here, added after the field's own words ("The first provider.").
        nullable: whether the value may be missing here.
        references: `table.column` whose values this column must be among here.
        plausible: bounds (inclusive) outside of which a value is odd but possible: a warning.
        compression: DuckDB compression, where we know better than its own choice.
        because: why this table departs from the field; needed for the two below.
        description: other words than the field's.
        privacy: another privacy class than the field's.
        checks: Pandera's own constraints (`ge`, `le`, `isin`, `str_matches`, ...), in place of the field's.

    Raises:
        ValueError: the column departs from its field and nobody says why.
    """
    instead = {"description": description, "privacy": privacy}
    instead = {name: value for name, value in instead.items() if value is not None}
    if bool(instead) != bool(because):
        raise ValueError("say with because=... why a table departs from a field, and only then")
    return Clause(note, nullable, references, plausible, compression, checks, instead, because)


def _as_pandera(name: str, table: str, stated: Field, clause: Clause) -> Any:
    """A column as Pandera declares it: the field, with what the table says about it."""
    references = stated.references if clause.references is None else clause.references
    description = str(clause.instead.get("description", stated.description))
    return pa.Field(
        nullable=stated.nullable if clause.nullable is None else clause.nullable,
        description=f"{description} {clause.note}".strip(),
        metadata={
            "unit": stated.unit,
            "source": stated.source,
            "privacy": clause.instead.get("privacy", stated.privacy),
            # The table that a key belongs to does not refer to itself.
            "references": "" if references == f"{table}.{name}" else references,
            "plausible": clause.plausible or stated.plausible,
            "compression": clause.compression or stated.compression,
            "because": clause.because,
        },
        **(clause.checks or stated.checks),
    )


@dataclass(frozen=True)
class Column:
    """One column of a contract."""

    name: str
    dtype: pl.DataType
    duckdb_type: str
    nullable: bool
    description: str
    unit: str
    source: str
    privacy: Privacy
    references: str
    plausible: tuple[float, float] | None
    compression: str
    checks: tuple[pa.Check, ...]
    because: str = ""


@dataclass(frozen=True)
class Measure:
    """What a figure means: an entry of the metric catalogue.

    Attributes:
        name: as analysts know it.
        definition: how it is computed.
        unit: of the value.
        clock: what starts and what stops it, where it measures time.
        population: who is looked at.
        exclusions: who is left out, and why; counted by reason in the table.
        source: where the definition comes from.
        variants: how it differs from other figures of the same name.
        owner: the team to ask.
    """

    name: str
    definition: str
    unit: str
    population: str
    source: str
    clock: str = ""
    exclusions: str = ""
    variants: str = ""
    owner: str = "clinical-analytics"

    @property
    def description(self) -> str:
        """The measure in a few sentences."""
        parts = (
            f"**{self.name}** ({self.unit}): {self.definition}",
            f"Clock: {self.clock}" if self.clock else "",
            f"Population: {self.population}.",
            f"Left out: {self.exclusions}" if self.exclusions else "",
            f"Variants: {self.variants}" if self.variants else "",
            f"Source: {self.source}.",
        )
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Contract:
    """A contract as the rest of the house reads it; made from a Pandera model."""

    name: str
    layer: Layer
    grain: str
    key: tuple[str, ...]
    partitioned: bool
    order_by: tuple[str, ...]
    model: type[Table]
    measures: tuple[Measure, ...] = ()
    conserved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    population_of: str = ""
    needs: tuple[str, ...] = ()

    @property
    def adds_up(self) -> dict[str, tuple[str, ...]]:
        """Column -> the columns that must add up to it in every row.

        A population is its denominator and everybody who was left out, by reason.
        """
        names = self.column_names
        if "population_count" not in names:
            return dict(self.conserved)
        excluded = [name for name in names if name.startswith("excluded_")]
        return {**self.conserved, "population_count": ("denominator_count", *excluded)}

    @property
    def summary(self) -> str:
        """The first paragraph of the model's docstring, then the grain."""
        text = (self.model.__doc__ or "").strip().split("\n\n")[0]
        return f"{' '.join(text.split())} Grain: {self.grain}."

    @property
    def description(self) -> str:
        """The summary, and what its figures mean."""
        return "\n\n".join([self.summary, *(measure.description for measure in self.measures)])

    @property
    def qualified_name(self) -> str:
        """`schema.table` in the warehouse."""
        return f"{self.layer}.{self.name}"

    @cached_property
    def schema(self) -> pa.DataFrameSchema:
        """The Pandera schema."""
        return self.model.to_schema()

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns: the partition, the key, then the others as the model lists them."""
        columns = []
        for name, stated in self.schema.columns.items():
            meta: dict[str, Any] = stated.metadata or {}
            dtype = _instance(stated.dtype.type)
            columns.append(
                Column(
                    name=name,
                    dtype=dtype,
                    duckdb_type=duckdb_type(dtype),
                    nullable=stated.nullable,
                    description=stated.description or "",
                    unit=meta.get("unit", ""),
                    source=meta.get("source", ""),
                    privacy=meta.get("privacy", "operational"),
                    references=meta.get("references", ""),
                    plausible=meta.get("plausible"),
                    compression=meta.get("compression", ""),
                    checks=tuple(stated.checks),
                    because=meta.get("because", ""),
                )
            )
        first = (PARTITION_COLUMN, *self.key)
        return tuple(sorted(columns, key=lambda c: first.index(c.name) if c.name in first else len(first)))

    def part(self, name: str, columns: Collection[str]) -> Contract:
        """Some columns of the table, as a table of its own without partitions."""
        found = replace(self, name=name, partitioned=False)
        # Where a cached property keeps its value.
        found.__dict__["columns"] = tuple(c for c in self.columns if c.name in columns)
        return found

    @property
    def column_names(self) -> list[str]:
        """The column names in their order."""
        return [column.name for column in self.columns]

    def column(self, name: str) -> Column:
        """One column by name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def polars_schema(self) -> pl.Schema:
        """Names and Polars types, for empty and test frames."""
        return pl.Schema({column.name: column.dtype for column in self.columns})


class Table(pa.DataFrameModel):
    """Base of every contract. Subclass with `name`, `layer`, `grain` and `key`."""

    _contract: ClassVar[Contract]
    # What subclasses take over unless they say otherwise.
    _layer: ClassVar[Layer]
    _key: ClassVar[tuple[str, ...]]
    _is_partitioned: ClassVar[bool] = False
    _order_by: ClassVar[tuple[str, ...] | None] = None

    class Config:
        """Every contract names exactly its columns and never coerces a value."""

        strict = True
        coerce = False

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        layer: Layer | None = None,
        grain: str = "",
        key: Sequence[str] = (),
        columns: str = "",
        landed: str = "",
        partitioned: bool = False,
        order_by: Sequence[str] | None = None,
        measures: Sequence[Measure] = (),
        conserved: Mapping[str, Sequence[str]] = MappingProxyType({}),
        population_of: str = "",
        needs: str = "",
        **kwargs: Any,
    ) -> None:
        """Attach the contract; classes without a name are shared bases.

        A base's columns are its subclasses', and so are its layer, key, partitioning and order until they say others.

        Args:
            grain: what one row is.
            key: columns that identify a row.
            columns: the other columns, by name; what each is, its field says.
            landed: columns of a landed record: the text that was landed for the field.
            partitioned: by service day.
            order_by: how rows are stored; default by key.
            measures: what its figures mean.
            conserved: column -> columns that must add up to it in every row. Rates have
                `population_count` = `denominator_count` + their exclusions by themselves.
            population_of: the fact table each of whose rows counts once in `population_count` of
                the rows that pool everything.
            needs: inputs (`subject.column`, or a whole subject) without which a figure cannot be computed; rows of
                sources that do not deliver them are left out as `undelivered` (`assets.facts.undelivered`).

        Raises:
            ValueError: a column that has no field, or a clause about a column that is not the table's.
        """
        if layer:
            cls._layer = layer
        if key:
            cls._key = tuple(key)
        if partitioned:
            cls._is_partitioned = True
        if order_by is not None:
            cls._order_by = tuple(order_by)
        own = [PARTITION_COLUMN] * partitioned + [*key, *columns.split(), *landed.split()]
        cls._declare(name, own, frozenset(landed.split()))
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        if name:
            cls._contract = Contract(
                name,
                cls._layer,
                grain,
                cls._key,
                cls._is_partitioned,
                cls._key if cls._order_by is None else cls._order_by,
                cls,
                tuple(measures),
                {whole: tuple(parts) for whole, parts in conserved.items()},
                population_of,
                tuple(needs.split()),
            )

    @classmethod
    def _declare(cls, table: str, names: Sequence[str], landed: frozenset[str]) -> None:
        """Give Pandera the columns: those named, each as its field has it and as a clause of the class body says."""
        inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__annotations__", {})}
        fields = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        clauses = {name: value for name, value in vars(cls).items() if isinstance(value, Clause)}
        if unlisted := set(clauses) - {*names, *inherited}:
            raise ValueError(f"{cls.__name__} says something about {', '.join(sorted(unlisted))} without listing it")
        annotations: dict[str, Any] = {}
        for name in dict.fromkeys([*names, *fields, *clauses]):
            if name in inherited and name not in clauses:
                continue
            stated = fields.get(name) or FIELDS.get(name)
            if stated is None:
                raise ValueError(f"{cls.__name__} has a column {name!r} that contracts/fields.py does not describe")
            stated = as_landed(stated) if name in landed else stated
            declared = _as_pandera(name, table, stated, clauses.get(name, Clause()))
            annotations[name] = stated.dtype
            setattr(cls, name, declared)
            declared.__set_name__(cls, name)
        cls.__annotations__ = {**vars(cls).get("__annotations__", {}), **annotations}

    @classmethod
    def contract(cls) -> Contract:
        """What this model says, as the rest of the house reads it."""
        return cls._contract
