"""fact_audit_events: the audit log as a fact table."""

import dagster as dg

from hospital_assets.assets.declare import table
from hospital_assets.assets.resources import AuditResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, lazy


@dg.asset(**table("fact_audit_events"))
def fact_audit_events(audit: AuditResource) -> Frame:
    """Every entry of the audit; the chain that proves them stays where they are."""
    entries = lazy(audit.entries()).rename({"reason": "outcome_reason"})
    return entries.select(CONTRACTS["fact_audit_events"].column_names)
