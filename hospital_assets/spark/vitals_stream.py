"""Live vital signs as a Spark stream: cleaned and scored like the batch, each observation once.

For feeds too fast for `hospital watch`. Files (or Kafka messages) are read as they come; an
observation that comes again within a day is the same one; what the stream has written survives any
crash and is never written twice: Spark repeats an unfinished batch with the same records, and each of its
two Delta tables takes a batch of a number once. Run it with
`python -m hospital_assets.spark.vitals_stream`; it needs a built warehouse.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import narwhals as nw
import polars as pl

from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.assets.facts.vitals import scored
from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN
from hospital_assets.files import keep_private
from hospital_assets.landing.registry import Profiles, load_profiles
from hospital_assets.live.copies import read_copy
from hospital_assets.settings import data_dir_from_environment, engine_from_environment, load_settings
from hospital_assets.spark.lake import Lake
from hospital_assets.spark.session import start_session
from hospital_assets.warehouse.dialect import lazy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

#: How long the stream remembers what has come. Counted from when a record comes, not from what its
#: clock says: one monitor that is a year ahead would make everybody else's records too late.
WATERMARK = "1 day"
_FINISHED_FILES = "*.{json,jsonl,json.gz,jsonl.gz}"
_STREAM = "vitals stream"
_BY_THE_BATCH = ("service_date", "hospital_key", "measured_date_key", "measured_time_key")
#: fact_vitals without the keys that only the batch gives.
VITALS = CONTRACTS["fact_vitals"].part(
    "live_vitals", [name for name in CONTRACTS["fact_vitals"].column_names if name not in _BY_THE_BATCH]
)
QUARANTINE = CONTRACTS["quarantine_vitals"].part("live_quarantine", ["record", "rule", "source_file"])


def from_files(session: SparkSession, folder: Path, files_per_batch: int = 1_000) -> DataFrame:
    """Lines of the files that land in a folder: line, source_file, source_line."""
    from pyspark.sql import functions as F  # noqa: N812

    # A batch is told apart by its files; lines within a file need no numbers here.
    return (
        session.readStream.option("maxFilesPerTrigger", files_per_batch)
        .option("pathGlobFilter", _FINISHED_FILES)
        .text(folder.as_uri())
        .select(
            F.col("value").alias("line"),
            F.col("_metadata.file_name").alias("source_file"),
            F.lit(0).cast("bigint").alias("source_line"),
        )
    )


def from_kafka(session: SparkSession, servers: str, topic: str) -> DataFrame:
    """Messages of a Kafka topic, as `from_files` gives lines.

    Raises:
        ValueError: Spark's Kafka package is not configured; says how to.
    """
    from pyspark import __version__
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F  # noqa: N812

    try:
        stream = (
            session.readStream.format("kafka")
            .option("kafka.bootstrap.servers", servers)
            .option("subscribe", topic)
            .load()
        )
    except AnalysisException as error:
        raise ValueError(
            "Spark cannot read Kafka without its package: set spark.jars.packages="
            f"org.apache.spark:spark-sql-kafka-0-10_2.13:{__version__} in spark-defaults.conf"
        ) from error
    return stream.select(
        F.col("value").cast("string").alias("line"),
        F.concat_ws("-", "topic", F.col("partition").cast("string")).alias("source_file"),
        F.col("offset").alias("source_line"),
    )


def observations(lines: DataFrame, profiles: Profiles, profile: str = "native") -> DataFrame:
    """Records with the columns of raw_vitals, each observation once.

    The same observation is the same id, written at the same moment; a correction is another one.
    """
    from pyspark.sql import functions as F  # noqa: N812

    from hospital_assets.spark.landing import json_records

    raw = json_records(lines, "vitals", profiles.named(profile).subjects["vitals"])
    keyed = raw.select(
        "*",
        F.lit(profile).alias("source_profile"),
        # Spark writes down the time of a batch, so that a repeated one has the same.
        F.current_timestamp().alias("_came_at"),
        # What has no id is itself.
        F.coalesce("observation_id", F.md5("record")).alias("_event"),
    )
    return (
        keyed.withWatermark("_came_at", WATERMARK)
        .dropDuplicatesWithinWatermark(["_event", "recorded_at"])
        .drop("_came_at", "_event")
    )


def start(
    session: SparkSession,
    lines: DataFrame,
    hospitals: pl.DataFrame,
    patients: pl.DataFrame,
    sink: Path,
    profiles: Profiles,
    *,
    profile: str = "native",
    until_done: bool = False,
) -> StreamingQuery:
    """Start the stream.

    Args:
        lines: from `from_files` or `from_kafka`.
        hospitals: hospital_id, time_zone.
        sink: folder for the Delta tables it writes, `VITALS` and `QUARANTINE`, and for its checkpoint.
        until_done: end when everything that is there has been read, instead of waiting for more.
    """
    from pyspark.sql import functions as F  # noqa: N812

    from hospital_assets.spark.dialect import forget_checkpoints, from_polars

    places = lazy(from_polars(session, hospitals))
    people = lazy(from_polars(session, patients))

    lake = Lake(str(sink))
    for contract in (VITALS, QUARANTINE):
        # What a killed stream had begun to write.
        lake.vacuum(contract, kept_days=0)

    def write(batch: DataFrame, number: int) -> None:
        last = [lake.last_batch(contract, _STREAM) for contract in (VITALS, QUARANTINE)]
        if all(known is not None and known >= number for known in last):
            # Written, but killed before Spark knew: what it remembers of the batch comes only from running it.
            batch.write.format("noop").mode("overwrite").save()
            return
        # Nothing is stored by day here, so that the parts of a set are looked for in the whole batch.
        on_a_day = batch.withColumn(PARTITION_COLUMN, F.lit(date(1970, 1, 1)))
        validated = validate_vitals(lazy(on_a_day), places, profiles)
        kept: DataFrame = validated.to_native().persist()
        once = lazy(kept)
        sound = scored(once.filter(nw.col("rule").is_null()), people).select(*VITALS.column_names)
        quarantined = once.filter(~nw.col("rule").is_null()).select(*QUARANTINE.column_names)
        for contract, rows in ((VITALS, sound), (QUARANTINE, quarantined)):
            lake.replace(session, contract, rows, None, batch=(_STREAM, number))
        kept.unpersist()
        forget_checkpoints()

    return (
        observations(lines, profiles, profile)
        .writeStream.foreachBatch(write)
        .option("checkpointLocation", (sink / "checkpoint").as_uri())
        .trigger(**({"availableNow": True} if until_done else {"processingTime": "1 second"}))
        .start()
    )


def main() -> None:
    """Stream the native vital signs of the data directory until interrupted."""
    keep_private()
    settings, engine = load_settings(data_dir_from_environment()), engine_from_environment()
    hospitals = read_copy(settings.warehouse_file, "hospitals")
    patients = read_copy(settings.warehouse_file, "patients")
    if hospitals is None or patients is None:
        raise SystemExit("patients and hospitals are not known yet: run `hospital build` first")
    session = start_session(engine.spark_master)
    lines = from_files(session, settings.landing / "native" / "vitals")
    profiles = load_profiles(settings.profiles_folder)
    start(session, lines, hospitals, patients, settings.streamed_vitals, profiles).awaitTermination()


if __name__ == "__main__":
    main()
