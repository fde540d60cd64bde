"""Raw tables: landed records word for word, and the ledger of the files they came from.

Belongs here: which subject is read from the landing zone. All raw tables are alike, so they are
made by one function; how files are read is `landing`'s matter.
"""

from pathlib import Path

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import table
from hospital_assets.assets.resources import ClockResource
from hospital_assets.landing.profile import DATED, LANDED
from hospital_assets.landing.registry import keep_profiles
from hospital_assets.landing.service_day import days_ahead
from hospital_assets.landing.zone import LandingResource
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.errors import without_values
from hospital_assets.warehouse.io_manager import period_of


@dg.asset(**table("raw_landed_files"))
def raw_landed_files(context: dg.AssetExecutionContext, landing: LandingResource) -> pl.DataFrame:
    """The ledger: every landed file, what it holds, and what became of it."""
    with without_values("the landed files could not be read"):
        zone = landing.open()
        ledger = zone.discover(landing.known_files(), landing.held_back())
    keep_profiles(Path(landing.profiles), zone.profiles)
    states = {f"files_{state}": count for state, count in ledger["state"].value_counts().iter_rows()}
    context.add_output_metadata({"files": ledger["source_file"].n_unique(), **states})
    return ledger


def raw_subject(subject: str) -> dg.AssetsDefinition:
    """The raw table of a subject: the records of its files that fall into the run's days."""

    @dg.asset(**table(f"raw_{subject}"))
    def raw(context: dg.AssetExecutionContext, raw_landed_files: pl.DataFrame, landing: LandingResource) -> Frame:
        period = period_of(context) if subject in DATED else None
        with without_values(f"the landed {subject} could not be read"):
            return landing.open(f"raw_{subject}").read(subject, raw_landed_files, period)

    asset: dg.AssetsDefinition = raw
    return asset


@dg.asset(**table("raw_doctor_shifts_ahead"))
def raw_doctor_shifts_ahead(raw_landed_files: pl.DataFrame, landing: LandingResource, clock: ClockResource) -> Frame:
    """The records of shifts whose days come after the service days."""
    with without_values("the landed doctor_shifts could not be read"):
        zone = landing.open("raw_doctor_shifts_ahead")
        return zone.read("doctor_shifts", raw_landed_files, days_ahead("doctor_shifts", clock.service_days))


RAW_SUBJECTS = [raw_subject(subject) for subject in LANDED]
