"""How the cleaning did, measured against the simulator's ground truth.

For each kind of dirt: how many records were spoiled, what became of each, and what share ended as it
should (recall). For each cleaning rule: what share of the records it touched was really spoiled
(precision). Reads the warehouse; no asset reads this.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.assets.cleaned.rules import OUTSIDE_PERIOD, READING_RULES
from hospital_assets.assets.cleaned.subjects import RULES
from hospital_assets.warehouse.database import Warehouse

_RULES = {subject: RULES[subject] for subject in ("er_visits", "patients", "vitals", "adt_events")}
#: Rules that note what is no fault: other units and hours that really were ambiguous.
NEUTRAL = ("fahrenheit_converted", "ambiguous_hour", "missing_hour", OUTSIDE_PERIOD.name)

#: Another date format is read as what it is; there is nothing to mark.
_READ = ("time_format",)


def fates(warehouse: Warehouse) -> pl.DataFrame:
    """What became of every landed record: its fate (kept, quarantined, duplicate), and the codes or the rule."""
    parts = [
        f"select '{subject}' as subject, source_file as file, source_line as line, "
        f"case when is_duplicate then 'duplicate' else 'quarantined' end as fate, "
        f"rule as codes from cleaned.quarantine_{subject} union all "
        f"select '{subject}', source_file, source_line, 'kept', quality_codes "
        f"from cleaned.cleaned_{subject}"
        for subject in _RULES
    ]
    found: pl.DataFrame = warehouse.connection.sql(" union all ".join(parts)).pl()
    return found


def recall(truth: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """What became of the spoiled records of each kind, and the share that ended as expected.

    A spoiled record that a newer one replaced, or a copy whose twin was kept, is handled: what is
    wrong with it reaches nobody.

    Args:
        truth: `dirt.parquet` of the ground truth; file-level dirt is left out.
    """
    records = truth.filter(pl.col("line").is_not_null(), pl.col("subject").is_in(list(_RULES)))
    joined = records.join(found, on=["subject", "file", "line"], how="left").with_columns(
        pl.col("fate").fill_null("lost")
    )
    is_marked = (pl.col("fate") == "kept") & (pl.col("codes") != "")
    # Monitors go on after the last midnight: what they measure then is left out, spoiled or not.
    is_gone = (pl.col("fate") == "duplicate") | (pl.col("codes") == OUTSIDE_PERIOD.name)
    handled = (
        pl.when(pl.col("expected") == "quarantine")
        .then(pl.col("fate") == "quarantined")
        .when(pl.col("expected") == "duplicate")
        # Of two equal records either may stand; that only one does is the check `key`.
        .then(is_gone | (pl.col("fate") == "kept"))
        .when(pl.col("kind").is_in(_READ))
        .then(pl.col("fate").is_in(["kept", "duplicate"]))
        .when(pl.col("expected").is_in(["correct", "flag"]))
        .then(is_marked | is_gone)
        .otherwise(pl.col("fate").is_in(["kept", "duplicate"]))
    )
    return (
        joined.group_by("subject", "kind", "expected")
        .agg(
            records=pl.len(),
            kept=((pl.col("fate") == "kept") & (pl.col("codes") == "")).sum(),
            marked=is_marked.sum(),
            quarantined=(pl.col("fate") == "quarantined").sum(),
            duplicate=is_gone.sum(),
            lost=(pl.col("fate") == "lost").sum(),
            recall_pct=100.0 * handled.mean(),
        )
        .sort("subject", "kind")
    )


def precision(truth: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Of the records each rule has touched, the share that was really spoiled.

    Repetitions, and rules that note what is no fault, are left out.
    """
    spoiled = (
        truth.filter(pl.col("line").is_not_null())
        .select("subject", "file", "line")
        .unique()
        .with_columns(_spoiled=pl.lit(True))
    )
    faults = {
        subject: [
            rule.name for rule in (*READING_RULES, *rules) if rule.action != "duplicate" and rule.name not in NEUTRAL
        ]
        for subject, rules in _RULES.items()
    }
    touched = (
        found.filter(pl.col("fate") != "duplicate", pl.col("codes") != "")
        .with_columns(rule=pl.col("codes").str.split(";"))
        .explode("rule")
        .join(spoiled, on=["subject", "file", "line"], how="left")
        .with_columns(pl.col("_spoiled").fill_null(False))
    )
    is_fault = pl.any_horizontal(
        (pl.col("subject") == subject) & pl.col("rule").is_in(names) for subject, names in faults.items()
    )
    return (
        touched.filter(is_fault)
        .group_by("subject", "rule")
        .agg(records=pl.len(), precision_pct=100.0 * pl.col("_spoiled").mean())
        .sort("subject", "rule")
    )
