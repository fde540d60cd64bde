"""fact_alerts: the outbox of alerts as a fact table."""

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.members import key_of
from hospital_assets.assets.resources import OutboxResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, lazy, minutes_between


@dg.asset(**table("fact_alerts"))
def fact_alerts(dim_hospital: pl.DataFrame, outbox: OutboxResource) -> Frame:
    """Alerts with their hospital and duration, without the patient they were about."""
    return dated(lazy(outbox.alerts()), lazy(dim_hospital))


def dated(alerts: Frame, hospitals: Frame) -> Frame:
    """Alerts keyed to their hospital, with the minutes they were open."""
    minutes = minutes_between("opened_at", "resolved_at")
    return (
        key_of(alerts, hospitals, natural="hospital_id", key="hospital_key")
        .with_columns(open_minutes=minutes, alert_state=nw.col("state"))
        .select(CONTRACTS["fact_alerts"].column_names)
    )
