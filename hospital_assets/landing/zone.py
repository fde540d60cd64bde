"""The landing zone: discovery of what landed (the ledger) and the reading of a subject's days.

Belongs here: the two things assets ask of the landing folder, and the resource that brings them.
The ledger is a table like any other; a file's rows are read from the file itself, as often as
asked, so a landed file is never changed or moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import dagster as dg
import duckdb
import narwhals as nw
import polars as pl

from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN
from hospital_assets.landing.archives import is_archive_name
from hospital_assets.landing.content import (
    FAILURES,
    TooLargeError,
    UnreadableError,
    is_finished,
    sha256,
    why_unreadable,
)
from hospital_assets.landing.csv_records import csv_copy, csv_relation
from hospital_assets.landing.drift import kinds_of
from hospital_assets.landing.foreign import ARCHIVE_HERE
from hospital_assets.landing.json_records import json_relation, pieces_of
from hospital_assets.landing.listing import listed
from hospital_assets.landing.profile import (
    DATED,
    OTHER_RECORDS,
    Feed,
    Lookup,
    Profile,
    Subject,
    Versions,
    canonical_columns,
    lacking_of,
    time_zones,
)
from hospital_assets.landing.quarantine import HELD_BACK, read_quarantine
from hospital_assets.landing.records import LandedFile, declared_rows
from hospital_assets.landing.registry import Profiles, load_profiles
from hospital_assets.landing.service_day import DAYS_AHEAD, days_of_files, last_day_of, with_service_day
from hospital_assets.landing.verify import Verified, verified
from hospital_assets.landing.waiting import Waiting, waiting_files
from hospital_assets.landing.workbooks import table_kind
from hospital_assets.landing.worker import Worker, most_bytes_here
from hospital_assets.partitions import latest_day
from hospital_assets.settings import DEFAULT_LIMITS, FileLimits
from hospital_assets.warehouse.database import Period, scratch_connection
from hospital_assets.warehouse.dialect import Frame, checkpoint, lazy, parse_wall_clocks, quoted, resolve_instants
from hospital_assets.warehouse.errors import heed_interruption
from hospital_assets.warehouse.io_manager import WarehouseResource
from hospital_assets.warehouse.loads import ledger_version, read_ledger_copy

_LEDGER = CONTRACTS["raw_landed_files"]
#: What is the same of a file that nobody has touched.
_AS_IT_WAS = ("source_file", "file_bytes", "file_modified_ns")
#: Instead of an encoding: nobody has looked into the file.
_NOT_OPENED = "not opened"
#: States of a file whose records are loaded, or will be: only then another one of the same content is a copy of it.
_HOLDS_RECORDS = ("ready", "companion", "empty", *HELD_BACK)
#: Of two files that are one: the same content of another source is read otherwise, and counts there.
_SAME = ("source_profile", "file_sha256")
#: For each of these many bytes, the files that are read together have the time of one file again.
_BYTES_IN_A_TURN = 1_000_000_000
#: Clocks of other machines that write to a share are no further ahead.
_FAR_NS = 3_600_000_000_000
_COUNTS = {"source_file": pl.String, "_day": pl.Date, "row_count": pl.Int64, "unreadable_count": pl.Int64}


#: Of what each key leads to, what leads no further; a circle has no end, so its keys find nothing.
_CHAIN_ENDS = """
    with recursive chain as (
        select _key, _found from found
        union
        select chain._key, found._found from chain join found on found._key = chain._found
    )
    select _key, _found from chain where _found not in (select _key from found)
"""


#: The rows of the newest version of each record; as of `newest_only`, of the same moment the last by file and line.
_NEWEST_VERSIONS = """
    select * from versions
    qualify rank() over (
        partition by coalesce(id, source_file || ':' || source_line)
        order by _written_at desc nulls last, _is_withdrawn desc, _is_corrected desc, source_file desc, source_line desc
    ) = 1
"""


@dataclass(frozen=True)
class LandingZone:
    """The landing folder of a data directory, and the connection that reads it.

    Attributes:
        spool: where normalised copies of awkward files are kept; may be deleted at any time.
        last: last service day, inclusive.
        connection: the warehouse's connection, so that reading and storing is one plan.
        is_open_ended: whether the last service day is only the latest one so far.
    """

    landing: Path
    spool: Path
    first: date
    last: date
    connection: duckdb.DuckDBPyConnection
    profiles: Profiles
    limits: FileLimits = field(default=DEFAULT_LIMITS, kw_only=True)
    is_open_ended: bool = field(default=False, kw_only=True)
    #: What was looked up in which files: subjects share it, and plans stay small.
    _found: dict[tuple[object, ...], Frame] = field(default_factory=dict, init=False, repr=False, compare=False)
    #: Landed lists of hospitals -> the zones they state.
    _zones: dict[frozenset[tuple[str, ...]], dict[str, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def discover(
        self,
        known: pl.DataFrame | None = None,
        held_back: Mapping[str, str] = MappingProxyType({}),
        quiet_since_ns: int | None = None,
        subjects: Sequence[str] = (),
        found: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """The ledger: every landed file with what it is, what it holds, and whether it can be read.

        A file that changes while it is read is not in it; the next look finds it. What cannot be read, whatever
        the reason, is `unreadable` with what to do, and stops no other file.

        Args:
            known: an earlier ledger; files it knows unchanged (path, size, time) are not read, and of those whose time
                alone has changed, as by a copy of the folder, the content is hashed and no more.
            held_back: content hashes that must not be loaded now, with the state to give them
                (`held`, `quarantined`).
            quiet_since_ns: leave out new files modified after this time, unless the system says
                that nobody is writing them: they may be growing.
            subjects: leave out new files of other subjects, but for those that date their records; default none.
            found: what stands in the landing folder, where that was just listed.
        """
        profiles = self.profiles
        if found is None:
            found = self.listed()
        unchanged = _unchanged(known, found, held_back, self)
        if quiet_since_ns is not None:
            # A file of a far future, as far as it says, would never be quiet.
            far = quiet_since_ns + _FAR_NS
            is_quiet = ~pl.col("file_modified_ns").is_between(quiet_since_ns, far, closed="right")
            loud = found.filter(~is_quiet, pl.col("obstacle").is_null())["source_file"]
            finished = [name for name in loud if is_finished(self.landing / name)]
            found = found.filter(is_quiet | pl.col("source_file").is_in(finished))
        fresh = found.join(unchanged.select("source_file").unique(), on="source_file", how="anti")
        if subjects and not fresh.is_empty():
            fed = [_concerns(name, subjects, profiles) for name in fresh["source_file"]]
            fresh = fresh.filter(pl.Series(fed))
        with ThreadPoolExecutor() as pool:
            hashed = pl.DataFrame(
                [row for row in pool.map(self._hashed, fresh.rows(named=True)) if row is not None],
                schema={**fresh.schema, "file_sha256": pl.String},
            )
            touched = _unchanged(known, hashed, held_back, self, by=("source_file", "file_sha256"))
            # What could not be read is tried again when it is delivered again.
            touched = touched.filter((pl.col("state") != "unreadable").all().over("source_file"))
            unchanged = pl.concat([unchanged, touched])
            again = found.join(_completed(unchanged, found, profiles), on="source_file", how="inner")
            unchanged = unchanged.join(again, on="source_file", how="anti")
            # What is known longest comes first: others are copies of it.
            hashed = pl.concat([again.select(hashed.columns), hashed.join(touched, on="source_file", how="anti")])
            originals = _originals(unchanged)
            with Worker(self.limits) as worker:
                examine = partial(self._alike, originals=originals, held_back=held_back, worker=worker)
                rows = _as_first_seen([row for rows in pool.map(examine, _by_content(hashed)) for row in rows], known)
        ledger = pl.concat([unchanged, pl.DataFrame(rows, schema=_LEDGER.polars_schema)], how="vertical")
        if rows:
            is_fresh = pl.col("source_file").is_in(hashed["source_file"].implode())
            ledger = self._dated_anew(_without_false_copies(self._counted(ledger, is_fresh)), is_fresh)
        return ledger.sort("source_file", "subject")

    def read(self, subject: str, ledger: pl.DataFrame, period: Period | None = None) -> Frame:
        """Raw records of a subject, of the given service days or (undated subjects) all.

        Returns:
            a lazy frame with exactly the columns of `raw_<subject>`.
        """
        contract = CONTRACTS[f"raw_{subject}"]
        ready = ledger.filter(pl.col("subject") == subject, pl.col("state").is_in(["ready", "companion"]))
        if period is not None:
            days = pl.col("service_dates").list
            overlaps = (days.min() < period.end) & (days.max() >= period.first)
            ready = ready.filter(overlaps | (pl.col("state") == "companion"))
        frames = []
        for name in sorted(set(ledger["source_profile"].to_list()) & set(self.profiles)):
            profile = self.profiles[name]
            files = ready.filter(pl.col("source_profile") == name)
            frames.extend(self._frames(profile, subject, files, ledger))
        if not frames:
            return lazy(self.connection.from_arrow(pl.DataFrame(schema=contract.polars_schema).to_arrow()))
        frame = nw.concat([f.select(nw.col(*contract.column_names)) for f in frames], how="vertical")
        if period is not None:
            frame = frame.filter(period.holds())
        return frame

    def zones(self, ledger: pl.DataFrame, profile: Profile) -> dict[str, str]:
        """IANA zone by hospital, from the landed reference data and the profiles of its namespace."""
        namespace = profile.identity_namespace
        sharing = [name for name, other in self.profiles.items() if other.identity_namespace == namespace]
        files = ledger.filter(pl.col("subject") == "hospitals", pl.col("source_profile").is_in(sharing))
        of = frozenset(files.select("source_file", "file_sha256", "state").rows())
        if of not in self._zones:
            hospitals = self.read("hospitals", files).collect("polars").to_native()
            self._zones[of] = {
                row["hospital_id"].strip(): row["time_zone"].strip()
                for row in hospitals.rows(named=True)
                if row["hospital_id"] and row["time_zone"] in time_zones()
            }
        return self._zones[of]

    def _frames(
        self, profile: Profile, subject: str, files: pl.DataFrame, ledger: pl.DataFrame, *, for_dates: bool = False
    ) -> list[Frame]:
        """Records of one profile's files of a subject, dated where the subject is.

        Args:
            files: ledger rows of the files to read.
            ledger: of all files, for what is looked up.
            for_dates: leave out the lookups that have nothing to do with a record's day.
        """
        frames = []
        if subject in profile.subjects and profile.subjects[subject].rows:
            declared = self.connection.from_arrow(declared_rows(subject, profile).to_arrow())
            frames.append(lazy(declared))
        beside = self._landed(files.filter(pl.col("state") == "companion"))
        for spec, main in self._by_spec(profile, subject, files.filter(pl.col("state") == "ready")):
            companions = [file for file in beside if spec.joins_file(_inside(file.source_file))]
            frame = lazy(self._relation(profile, subject, spec, main, companions))
            dating = {"hospital_id", spec.date, spec.date_from and spec.date_from.on}
            lookups = [lookup for lookup in spec.lookups if not for_dates or lookup.column in dating]
            frame = self._filled(frame, profile, spec, lookups, ledger)
            if spec.defaults:
                # Behind the lookups: a default stands where nothing at all was found.
                frame = frame.with_columns(
                    **{name: nw.coalesce(nw.col(name), nw.lit(value)) for name, value in spec.defaults.items()}
                )
            if spec.date_from is not None:
                frame = self._with_looked_up_day(frame, profile, spec, ledger)
            if subject in DATED:
                has_hospital = "hospital_id" in canonical_columns(subject)
                zones = self.zones(ledger, profile) if has_hospital else {}
                frame = with_service_day(frame, spec, profile, zones, self.first, last_day_of(subject, self.last))
            frames.append(frame)
        return [f.with_columns(source_profile=nw.lit(profile.name)) for f in frames]

    def _by_spec(self, profile: Profile, subject: str, files: pl.DataFrame) -> list[tuple[Subject, list[LandedFile]]]:
        """Files by how they are read: by layout, and by who else takes of them."""
        landed = self._landed(files)
        declared = profile.subjects.get(subject)
        if declared is not None and not declared.also:
            return [(declared, landed)] if landed else []
        groups: dict[str, tuple[Subject, list[LandedFile]]] = {}
        for file in landed:
            feeds = profile.feeds(str(_inside(file.source_file)))
            for spec in (feed.spec for feed in feeds if feed.subject == subject and feed.is_main):
                groups.setdefault(spec.model_dump_json(), (spec, []))[1].append(file)
        return list(groups.values())

    def _relation(
        self,
        profile: Profile,
        subject: str,
        spec: Subject,
        files: Sequence[LandedFile],
        companions: Sequence[LandedFile] = (),
    ) -> duckdb.DuckDBPyRelation:
        if spec.format == "csv":
            return csv_relation(self.connection, subject, spec, files, companions, self.spool)
        return json_relation(
            self.connection, canonical_columns(subject), spec, files, self.spool, named=profile.names_of(spec.format)
        )

    def _filled(
        self, frame: Frame, profile: Profile, spec: Subject, lookups: Sequence[Lookup], ledger: pl.DataFrame
    ) -> Frame:
        """Fill columns from other kinds of records of the source, landed in whatever files."""
        ready = ledger.filter(pl.col("source_profile") == profile.name, pl.col("state") == "ready")
        looked_at: dict[tuple[str, ...], pl.DataFrame] = {}
        # One statement for all: DuckDB binds anew, with each step, all that led to it.
        steps: list[str] = []
        for lookup in lookups:
            others = lookup.spec(spec, profile.versions)
            if others.files not in looked_at:
                is_one = [any(PurePosixPath(n).match(p) for p in others.files) for n in ready["source_file"]]
                found_in = ready.filter(pl.Series(is_one, dtype=pl.Boolean))
                # Always the same row of a file that feeds several subjects: what is found there is asked for by it.
                looked_at[others.files] = found_in.unique("source_file", keep="first", maintain_order=True)
            files = looked_at[others.files]
            if files.is_empty():
                continue
            asked = others.model_dump_json(), lookup.model_dump_json()
            found = self._once(partial(self._pairs, profile, lookup, others, files), *asked, files=files)
            column, on = quoted(lookup.column), quoted(lookup.on)
            # Where it points at itself, what is found takes the place of the pointer.
            first, second = ("f._found", f"r.{column}") if column == on else (f"r.{column}", "f._found")
            steps.append(
                f"step_{len(steps) + 1} as (select r.* replace (coalesce({first}, {second}) as {column}) "
                f"from step_{len(steps)} r left join ({found.to_native().sql_query()}) f on r.{on} = f._key)"
            )
        if not steps:
            return frame
        return lazy(frame.to_native().query("step_0", f"with {', '.join(steps)} from step_{len(steps)}"))

    def _pairs(self, profile: Profile, lookup: Lookup, others: Subject, files: pl.DataFrame) -> Frame:
        """What the records looked at say, each in its newest version: each `_key` once, with its `_found`."""
        landed = self._landed(files)
        pairs = lazy(json_relation(self.connection, list(others.columns), others, landed, self.spool))
        if profile.versions is not None:
            pairs = _newest_versions(pairs, profile, profile.versions, lookup.withdrawn)
        found = (
            nw.concat([pairs.select("value", _key=key) for key in lookup.keys])
            .filter(~nw.col("_key").is_null(), ~nw.col("value").is_null())
            .group_by("_key")
            .agg(_found=nw.col("value").min())
        )
        if lookup.among:
            wanted = others.model_copy(
                update={"where": lookup.among, "each": None, "columns": {"key": "$.id"}, "patterns": {}}
            )
            ids = lazy(json_relation(self.connection, ["key"], wanted, landed, self.spool))
            found = found.join(ids.select(_found=nw.col("key")).unique(), on="_found", how="semi")
        return lazy(found.to_native().query("found", _CHAIN_ENDS)) if lookup.is_chain else found

    def _once(self, make: Callable[[], Frame], *asked: str, files: pl.DataFrame) -> Frame:
        """A frame made of what stands in files of the ledger, stored when it is first asked for."""
        of = (*asked, frozenset(files.select("source_file", "subject", "file_sha256", "state", "fallback_date").rows()))
        if of not in self._found:
            self._found[of] = checkpoint(make())
        return self._found[of]

    def _with_looked_up_day(self, frame: Frame, profile: Profile, spec: Subject, ledger: pl.DataFrame) -> Frame:
        """Add the day of the visit that each record belongs to."""
        assert spec.date_from is not None  # noqa: S101  (the caller has looked)
        visits = ledger.filter(
            pl.col("source_profile") == profile.name,
            pl.col("subject") == spec.date_from.subject,
            pl.col("state").is_in(["ready", "companion"]),
        )
        on, subject = spec.date_from.on, spec.date_from.subject

        def day_of_each() -> Frame:
            dated = self._frames(profile, subject, visits, ledger, for_dates=True)
            days = nw.concat([f.select(on, PARTITION_COLUMN) for f in dated], how="vertical")
            return days.group_by(on).agg(_looked_up=nw.col(PARTITION_COLUMN).min().cast(nw.String))

        if visits.is_empty():
            return frame.with_columns(_looked_up=nw.lit(None).cast(nw.String))
        days = self._once(day_of_each, profile.name, subject, on, files=ledger)
        return frame.join(days, on=on, how="left")

    def _landed(self, files: pl.DataFrame) -> list[LandedFile]:
        return [
            LandedFile(
                path=self.landing / row["source_file"],
                source_file=row["source_file"],
                sha256=row["file_sha256"],
                is_plain=row["encoding"] == "utf-8" and row["compression"] == "none",
                is_packed=row["encoding"] == "utf-8" and row["compression"] == "gzip",
                fallback=row["fallback_date"],
                modified_ns=row["file_modified_ns"],
                limits=self.limits,
            )
            for row in files.sort("source_file").iter_rows(named=True)
        ]

    def waiting(self, ledger: pl.DataFrame, published: pl.DataFrame, subjects: Collection[str]) -> list[Waiting]:
        """Files of some subjects that are not loaded yet; see `waiting_files`."""
        return waiting_files(ledger, published, subjects, self.last, is_open_ended=self.is_open_ended)

    def listed(self) -> pl.DataFrame:
        """What stands in the landing folder; see `listing.listed`."""
        return _standing(self.landing, self.limits, self.profiles)

    def _hashed(self, entry: Mapping[str, Any]) -> dict[str, object] | None:
        """An entry of `listed` with its content's hash, or that of why it has none; None when it is gone."""
        name, obstacle = entry["source_file"], entry["obstacle"]
        if obstacle is None:
            try:
                return {**entry, "file_sha256": sha256(self.landing / name, entry["file_bytes"])}
            except FileNotFoundError:
                return None
            except (OSError, UnreadableError) as error:
                obstacle = why_unreadable(error)
        not_opened = hashlib.sha256(f"{_NOT_OPENED}|{name}|{obstacle}".encode()).hexdigest()
        return {**entry, "obstacle": obstacle, "file_sha256": not_opened}

    def _alike(
        self,
        entries: Sequence[Mapping[str, Any]],
        originals: Mapping[tuple[str, str], str],
        held_back: Mapping[str, str],
        worker: Worker,
    ) -> list[dict[str, object]]:
        """Ledger rows of files of one source that hold the same: the first whose records can be loaded is no copy.

        Args:
            originals: the files that are loaded already, by source and content.
        """
        rows: list[dict[str, object]] = []
        original = originals.get(_source_and_content(entries[0]))
        for entry in entries:
            found = self._examined(entry, original, held_back, worker)
            if original is None and any(row["state"] in _HOLDS_RECORDS for row in found):
                original = str(entry["source_file"])
            rows += found
        return rows

    def _examined(
        self, entry: Mapping[str, object], original: str | None, held_back: Mapping[str, str], worker: Worker
    ) -> list[dict[str, object]]:
        """Ledger rows of a file: one for each subject it feeds; counts come later.

        Args:
            original: the file that is loaded for its content; None where none is.
        """
        profiles = self.profiles
        source_file = str(entry["source_file"])
        path = self.landing / source_file
        folder = source_file.partition("/")[0]
        row: dict[str, object] = {
            **{name: value for name, value in entry.items() if name != "obstacle"},
            "first_seen_at": (now := datetime.now(UTC)),
            "name_first_seen_at": now,
            "source_profile": folder,
            "profile_sha256": None,
            "subject": "unknown",
            "encoding": "unknown",
            "compression": "none",
            "columns": None,
            "column_kinds": None,
            "unknown_columns": None,
            "row_count": 0,
            "unreadable_count": 0,
            "service_dates": [],
            "fallback_date": None,
            "dated_by_sha256": None,
            "state": "unrecognised",
            "problem": None,
        }
        profile = profiles.get(folder)
        feeds = _fed_by(source_file, profiles)
        if profile is not None:
            row["profile_sha256"] = _version(profile, self)
        if entry["obstacle"] is not None:
            row |= {"state": "unreadable", "problem": entry["obstacle"], "encoding": _NOT_OPENED}
            return [{**row, "subject": feed.subject} for feed in feeds] or [row]
        if profile is None:
            row["problem"] = _why_unknown(folder, profiles)
            return [row]
        if not feeds and is_archive_name(source_file):
            row |= {"state": "unreadable", "problem": ARCHIVE_HERE}
            return [row]
        if not feeds:
            row["problem"] = f"no subject of the profile '{folder}' takes a file of this name; it is not used"
            return [row]
        if entry["file_bytes"] == 0:
            return [
                {**row, "subject": feed.subject, "state": "empty", "problem": "the file is empty"} for feed in feeds
            ]
        if original is not None:
            problem = f"same content as {original}, which is loaded; not loaded again"
            return [{**row, "subject": feed.subject, "state": "duplicate", "problem": problem} for feed in feeds]
        if state := held_back.get(str(row["file_sha256"])):
            return [{**row, "subject": feed.subject, "state": state, "problem": HELD_BACK[state]} for feed in feeds]
        known = profile.known_columns(source_file.partition("/")[2])
        rows = [self._verified(row, feed, path, known, worker) for feed in feeds]
        try:
            stat = path.lstat()
        except OSError:
            return []
        is_whole = (stat.st_size, stat.st_mtime_ns) == (entry["file_bytes"], entry["file_modified_ns"])
        return rows if is_whole else []

    def _verified(
        self, row: Mapping[str, Any], feed: Feed, path: Path, known: AbstractSet[str], worker: Worker
    ) -> dict[str, object]:
        """The ledger row of one subject that a file feeds; a large file is also made ready, by the worker."""
        spec, found = feed.spec, {**row, "subject": feed.subject}
        most = most_bytes_here(spec.format)
        here = replace(self.limits, megabytes=min(self.limits.megabytes, most // 1_000_000))
        try:
            # A crafted workbook ends whoever reads it.
            is_large = row["file_bytes"] > most or (spec.format == "csv" and table_kind(path) is not None)
            try:
                file = None if is_large else verified(path, spec, here)
            except TooLargeError:
                file, is_large = None, True
            found = _with_state(found, file or worker.run(verified, path, spec, self.limits), feed, known)
            if is_large and found["state"] == "ready" and spec.join is None:
                (landed,) = self._landed(pl.DataFrame([found], schema=_LEDGER.polars_schema))
                names = self.profiles[str(row["source_profile"])].names_of(spec.format)
                worker.run(made_ready, landed, feed.subject, spec, names, self.spool)
        except FAILURES as error:
            return {**found, "state": "unreadable", "problem": why_unreadable(error)}
        return found

    def _counted(self, ledger: pl.DataFrame, is_fresh: pl.Expr) -> pl.DataFrame:
        """Fill in rows, unreadable rows and service days where they are not known yet."""
        is_todo = is_fresh & pl.col("state").is_in(["ready", "companion"])
        groups: list[tuple[str, str]] = ledger.filter(is_todo).select("source_profile", "subject").unique().rows()
        counted: dict[tuple[str, str], pl.DataFrame] = {}
        failed: list[tuple[str, str]] = []
        for group in sorted(groups):
            try:
                counted[group] = self._count(*group, ledger, is_todo)
            except FAILURES as error:
                heed_interruption(error)
                failed.append(group)
        # Reference data first: others cannot be dated without it.
        failed.sort(key=lambda group: CONTRACTS[f"raw_{group[1]}"].partitioned)
        for group in failed:
            ledger = self._without_unreadable(*group, ledger, is_todo)
        for group in failed:
            try:
                counted[group] = self._count(*group, ledger, is_todo)
            except FAILURES as error:
                ledger = _unreadable(ledger, is_todo & _of_group(*group), error)
        if not counted:
            return ledger
        names = ["row_count", "unreadable_count", "service_dates", "fallback_date"]
        found = pl.concat(counted.values()).rename({name: f"_{name}" for name in names})
        ledger = ledger.join(found, on=["source_file", "subject"], how="left").with_columns(
            **{name: pl.coalesce(f"_{name}", name) for name in names}
        )
        # A file in which no line could be read, whichever subject it feeds, is not one of its kind.
        readable = (pl.col("row_count") - pl.col("unreadable_count")).sum().over("source_file")
        hopeless = is_fresh & (pl.col("state") == "ready") & (pl.col("row_count") > 0) & (readable == 0)
        ledger = ledger.with_columns(
            state=pl.when(hopeless).then(pl.lit("unreadable")).otherwise("state"),
            problem=pl.when(hopeless)
            .then(pl.lit("no line is a record; check what was delivered"))
            .otherwise("problem"),
        )
        # A subject that takes nothing of a file has no business with it, unless nobody takes any.
        takes_none = is_fresh & (pl.col("state") == "ready") & (pl.col("row_count") == 0)
        is_first = pl.col("subject").cum_count().over("source_file") == 1
        nobody = pl.col("row_count").sum().over("source_file") == 0
        return (
            ledger.sort("source_file", "subject")
            .filter(~takes_none | (nobody & is_first))
            .with_columns(
                state=pl.when(takes_none).then(pl.lit("empty")).otherwise("state"),
                problem=pl.when(takes_none).then(pl.lit("the file holds no records")).otherwise("problem"),
            )
            .select(_LEDGER.column_names)
        )

    def _dated_anew(self, ledger: pl.DataFrame, is_fresh: pl.Expr) -> pl.DataFrame:
        """The ledger with the service days that records have by the zones and visits which are known now.

        Args:
            ledger: of all files.
            is_fresh: those that were just counted.
        """
        sources = set(ledger["source_profile"]) & set(self.profiles)
        zones = {name: _digest(self.zones(ledger, self.profiles[name])) for name in sources}
        is_dated = pl.col("subject").is_in(list(DATED))
        is_loadable = pl.col("state").is_in(["ready", "companion"])
        now = pl.col("source_profile").replace_strict(zones, default=None, return_dtype=pl.String)
        came = set(ledger.filter(is_fresh, is_loadable).select("source_profile", "subject").iter_rows())
        depending = [
            _of_group(name, subject)
            for name in zones
            for subject, spec in self.profiles[name].subjects.items()
            if any(one.date_from and (name, one.date_from.subject) in came for one in spec.layouts)
        ]
        is_outdated = pl.any_horizontal(pl.col("dated_by_sha256") != now, *depending)
        outdated = ledger.filter(is_dated & is_loadable & ~is_fresh & is_outdated)
        is_new = is_fresh
        for (subject,), rows in outdated.partition_by("subject", as_dict=True).items():
            # No other subject of the same files is read for that.
            is_one = (pl.col("subject") == subject) & pl.col("source_file").is_in(rows["source_file"].implode())
            ledger, is_new = self._counted(ledger, is_one), is_new | is_one
        return ledger.with_columns(
            dated_by_sha256=pl.when(is_dated & is_loadable & is_new).then(now).otherwise("dated_by_sha256")
        )

    def _count(self, profile_name: str, subject: str, ledger: pl.DataFrame, is_todo: pl.Expr) -> pl.DataFrame:
        """Rows, unreadable rows and service days of a subject's files; see `days_of_files`."""
        profile = self.profiles[profile_name]
        # What is only looked up in completes new files, too, however long it has been there.
        is_lookup = subject in profile.subjects and any(s.join_is_lookup for s in profile.subjects[subject].layouts)
        is_beside = (pl.col("state") == "companion") & pl.lit(is_lookup)
        files = ledger.filter(_of_group(profile_name, subject), is_todo | is_beside)
        is_dated = subject in DATED
        by = ["source_file", *(["_day"] if is_dated else [])]
        counts = pl.DataFrame(schema=_COUNTS)
        seconds = self.limits.seconds * (1 + int(files["file_bytes"].sum()) // _BYTES_IN_A_TURN)
        # DuckDB can be stopped by another thread only.
        timer = threading.Timer(seconds, self.connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            frames = [
                f.group_by(*by).agg(row_count=nw.len(), unreadable_count=_is_unreadable().cast(nw.Int64).sum())
                for f in self._frames(profile, subject, files, ledger, for_dates=True)
                if not is_dated or "_day" in f.collect_schema().names()
            ]
            if frames:
                counts = nw.concat(frames, how="vertical").collect("polars").to_native()
        finally:
            timer.cancel()
        return days_of_files(counts, is_dated, self.first).with_columns(subject=pl.lit(subject))

    def _without_unreadable(
        self, profile_name: str, subject: str, ledger: pl.DataFrame, is_todo: pl.Expr
    ) -> pl.DataFrame:
        """The ledger with those files of a subject `unreadable` that cannot be read alone, by halves."""
        of_group = _of_group(profile_name, subject)
        # What others have not got through yet must not be looked up in.
        done = ledger.filter(~is_todo)
        waiting = [ledger.filter(is_todo, of_group)["source_file"].to_list()]
        while waiting:
            names = waiting.pop()
            tried = ledger.filter(is_todo, of_group, pl.col("source_file").is_in(names))
            try:
                # A connection of its own: what breaks one breaks no other.
                with contextlib.closing(scratch_connection(memory_limit="500MB")) as connection:
                    zone = replace(self, connection=connection)
                    zone._count(profile_name, subject, pl.concat([done, tried]), is_todo)
            except FAILURES as error:
                heed_interruption(error)
                if len(names) == 1:
                    is_bad = of_group & pl.col("source_file").is_in(names)
                    ledger = _unreadable(ledger, is_todo & is_bad, error)
                else:
                    half = len(names) // 2
                    waiting += [names[:half], names[half:]]
        return ledger


def _standing(landing: Path, limits: FileLimits, profiles: Profiles) -> pl.DataFrame:
    """What stands in the landing folder; see `listing.listed`."""
    # A folder that is called as an archive holds what was in it.
    return listed(landing, limits, lambda name: not is_archive_name(name) and bool(_fed_by(name, profiles)))


@dataclass(frozen=True)
class _Seen:
    """All that decides which files wait, as a look found it.

    Attributes:
        listed: what stands in the landing folder; what is equal otherwise may differ in that.
        ledger: the version of the published ledger.
        held_back: content hashes that must not be loaded, with their state.
    """

    listed: pl.DataFrame = field(compare=False)
    ledger: tuple[int, ...]
    held_back: Mapping[str, str]
    last: date
    profiles: Profiles

    def is_like(self, other: _Seen) -> bool:
        """Whether a look at the other finds the same."""
        return self == other and self.listed.equals(other.listed)


#: Landing folder, warehouse and subjects -> what the newest look saw, where nothing waited.
_NOTHING_WAITS: dict[tuple[str, str, tuple[str, ...]], _Seen] = {}
#: Landing folder and subjects -> the stored ledger that the newest look knew, and the ledger as it found it.
_LAST_LOOKS: dict[tuple[Path, tuple[str, ...]], tuple[pl.DataFrame, pl.DataFrame]] = {}


def look_again(
    zone: LandingZone,
    published: pl.DataFrame,
    held_back: Mapping[str, str],
    quiet_since_ns: int | None = None,
    subjects: Sequence[str] = (),
    found: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """As `LandingZone.discover`, for who looks every few seconds: what waits was read by an earlier look already."""
    asked = zone.landing, tuple(subjects)
    known = stored = published.select(_LEDGER.column_names)
    if asked in _LAST_LOOKS:
        seen, last = _LAST_LOOKS[asked]
        # What was stored since is newer than the last look.
        newer, older = (last, stored) if seen.equals(stored) else (stored, last)
        known = pl.concat([newer, older.join(newer, on=_AS_IT_WAS, how="anti")])
    ledger = zone.discover(known, held_back, quiet_since_ns, subjects, found)
    _LAST_LOOKS[asked] = stored, ledger
    return ledger


def _digest(zones: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(zones.items())).encode()).hexdigest()


class LandingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Brings the landing zone to the assets that read files.

    `profiles` is the folder of the directory's own profiles. Without `last_service_date` the service days go
    on, up to the latest one that has begun anywhere. `limits` are those of `FileLimits` that differ from its own.
    """

    warehouse: WarehouseResource
    landing: str
    profiles: str
    first_service_date: str
    last_service_date: str | None = None
    limits: dict[str, int] = {}

    def open(self, table: str = "") -> LandingZone:
        """The landing zone, reading through the warehouse's connection.

        Args:
            table: for which table, where that decides the engine that reads.
        """
        return self._zone(self.warehouse.open().connection)

    def _last_day(self) -> date:
        last = self.last_service_date
        return latest_day(datetime.now(UTC)) if last is None else date.fromisoformat(last)

    def _zone(self, connection: duckdb.DuckDBPyConnection) -> LandingZone:
        return LandingZone(
            landing=Path(self.landing),
            spool=Path(self.warehouse.database).parent / "spool",
            first=date.fromisoformat(self.first_service_date),
            last=self._last_day(),
            connection=connection,
            profiles=load_profiles(Path(self.profiles)),
            limits=FileLimits(**self.limits),
            is_open_ended=self.last_service_date is None,
        )

    def without_warehouse(self) -> LandingZone:
        """The landing zone without the warehouse, for sensors: they must not wait for a run."""
        return self._zone(scratch_connection(memory_limit="500MB"))

    def waiting(
        self,
        subjects: Sequence[str],
        held_back: Mapping[str, str],
        quiet_since_ns: int | None = None,
        before_ns: int = sys.maxsize,
    ) -> list[Waiting]:
        """Files of some subjects that wait to be loaded; the warehouse may be in use meanwhile.

        Args:
            held_back: as for `LandingZone.discover`.
            quiet_since_ns: as for `LandingZone.discover`.
            before_ns: only files that wait since before this time.
        """
        database, profiles = Path(self.warehouse.database), load_profiles(Path(self.profiles))
        asked = self.landing, self.warehouse.database, tuple(subjects)
        standing = _standing(Path(self.landing), FileLimits(**self.limits), profiles)
        # None waits for longer than it has been as it is.
        is_older = pl.col("file_modified_ns") < before_ns
        seen = _Seen(standing.filter(is_older), ledger_version(database), dict(held_back), self._last_day(), profiles)
        # Sensors look every few seconds, and mostly at what they have looked at before.
        if quiet_since_ns is not None and asked in _NOTHING_WAITS and _NOTHING_WAITS[asked].is_like(seen):
            return []
        published = read_ledger_copy(database)
        # Of newer ones only what is known is looked up in.
        is_known = pl.col("source_file").is_in(published["source_file"].implode())
        zone = self.without_warehouse()
        with contextlib.closing(zone.connection):
            listed = standing.filter(is_older | is_known)
            ledger = look_again(zone, published, held_back, quiet_since_ns, subjects, listed)
            found = zone.waiting(ledger, published, subjects)
        # A file that may be growing was left out, and one that could not be opened may be opened next time.
        is_settled = seen.listed.filter(pl.col("file_modified_ns") > (quiet_since_ns or 0)).is_empty()
        if not found and is_settled and not (ledger["encoding"] == _NOT_OPENED).any():
            _NOTHING_WAITS[asked] = seen
        else:
            _NOTHING_WAITS.pop(asked, None)
        return [file for file in found if file.since_ns < before_ns]

    def held_back(self) -> dict[str, str]:
        """Content hashes that runs must leave out now, with their state."""
        return read_quarantine(Path(self.warehouse.database).parent)

    def known_files(self) -> pl.DataFrame | None:
        """The ledger as it was last stored, or None before the first time."""
        warehouse = self.warehouse.open()
        if not warehouse.exists(_LEDGER):
            return None
        known: pl.DataFrame = warehouse.read(_LEDGER).collect("polars").to_native()
        # One that an older version wrote may lack a column; then every file is looked at anew.
        return known if set(_LEDGER.column_names) <= set(known.columns) else None


def observed_period(zone: LandingZone, ledger: pl.DataFrame) -> tuple[date, date] | None:
    """First and last service day found in the landed files, or None where there are none."""
    days = ledger.filter(~pl.col("subject").is_in(list(DAYS_AHEAD)))["service_dates"].explode().drop_nulls()
    # Records without any clock stand on the zone's first day, which is not a day of theirs.
    days = days.filter(days > zone.first)
    return None if days.is_empty() else (days.min(), days.max())  # type: ignore[return-value]


def made_ready(file: LandedFile, subject: str, spec: Subject, names: frozenset[str], spool: Path) -> None:
    """Make the copies in the spool that a file's records are read from."""
    if spec.format == "csv":
        csv_copy(file, subject, spec, spool)
    else:
        pieces_of(file, spec, spool, names)


def _with_state(found: dict[str, object], file: Verified, feed: Feed, known: AbstractSet[str]) -> dict[str, object]:
    """The ledger row of one subject that a file feeds, once its bytes and header were looked at."""
    spec = feed.spec
    found |= {"encoding": file.encoding, "compression": file.compression}
    if file.is_blank:
        return {**found, "state": "empty", "problem": "the file holds no records"}
    if feed.subject == OTHER_RECORDS:
        return {**found, "state": "ready"}
    header = list(file.sample)
    if header:
        found["columns"] = ",".join(header)
        found["column_kinds"] = ",".join(kinds_of(file.sample).values())
        if feed.is_main:
            found["unknown_columns"] = ",".join(n for n in header if n not in known) or None
    if not feed.is_main:
        return {**found, "state": "companion"}
    if spec.format == "csv":
        lacking = [
            name
            for name in spec.required
            if name not in spec.constants
            and (name not in spec.derived or lacking_of(spec, name, header))
            and not set(spec.source_names(name)) & {*header, "@landed_at"}
        ]
        if lacking:
            wanted = "; ".join(f"{name} (as {_wanted_for(spec, name, header)})" for name in lacking)
            return {
                **found,
                "state": "missing_column",
                "problem": f"line 1 lacks the required column {wanted}; nothing was loaded",
            }
    return {**found, "state": "ready"}


def _newest_versions(records: Frame, profile: Profile, versions: Versions, withdrawn: Sequence[str]) -> Frame:
    """The newest version of each of some records, without those that are withdrawn."""

    def is_among(statuses: Sequence[str]) -> nw.Expr:
        status = nw.col("status").str.strip_chars().str.to_uppercase()
        return nw.coalesce(status.is_in([stated.upper() for stated in statuses]), nw.lit(False))

    records = parse_wall_clocks(records, {"_written": "written"}, profile.timestamp_formats)
    records = resolve_instants(
        records.with_columns(_zone=nw.lit(profile.time_zone)), {"_written_at": "_written"}, "_zone"
    ).with_columns(_is_withdrawn=is_among(withdrawn), _is_corrected=is_among(versions.corrected))
    return lazy(records.to_native().query("versions", _NEWEST_VERSIONS)).filter(~nw.col("_is_withdrawn"))


def _of_group(profile_name: str, subject: str) -> pl.Expr:
    return (pl.col("source_profile") == profile_name) & (pl.col("subject") == subject)


def _unreadable(ledger: pl.DataFrame, which: pl.Expr, error: BaseException) -> pl.DataFrame:
    return ledger.with_columns(
        state=pl.when(which).then(pl.lit("unreadable")).otherwise("state"),
        problem=pl.when(which).then(pl.lit(why_unreadable(error))).otherwise("problem"),
    )


def _wanted_for(spec: Subject, column: str, header: Sequence[str]) -> str:
    """Source names without which a file cannot fill one of our columns."""
    if column in spec.derived:
        return " and ".join(lacking_of(spec, column, header))
    return " or ".join(spec.source_names(column))


def _inside(source_file: str) -> PurePosixPath:
    """A landed file's path below its profile's folder."""
    return PurePosixPath(source_file.partition("/")[2])


def _version(profile: Profile, zone: LandingZone) -> str:
    """A hash of all that decides how a file is read and dated: where it changes, files are looked at anew."""
    limits = "" if zone.limits == DEFAULT_LIMITS else json.dumps(asdict(zone.limits))
    days = f"{zone.first} {'' if zone.is_open_ended else zone.last}"
    return hashlib.sha256(f"{profile.model_dump_json(exclude={'source'})}{limits}{days}".encode()).hexdigest()


def _why_unknown(folder: str, profiles: Profiles) -> str:
    """Why a folder below the landing folder has no usable profile, and what to do."""
    if folder in profiles.unusable:
        return f"the profile cannot be used; correct it: {profiles.unusable[folder]}"
    return (
        f"no source profile is called '{folder}'; move the file to landing/<profile>/, profiles "
        f"are {', '.join(profiles)}, or write one: hospital profiles new"
    )


def _fed_by(source_file: str, profiles: Mapping[str, Profile]) -> list[Feed]:
    """What a file feeds, by its path below the landing folder."""
    folder, _, inside = source_file.partition("/")
    return profiles[folder].feeds(inside) if folder in profiles else []


def _concerns(source_file: str, subjects: Collection[str], profiles: Mapping[str, Profile]) -> bool:
    """Whether a file feeds one of some subjects, or says when their records were."""
    feeds = _fed_by(source_file, profiles)
    if not feeds:
        return "unknown" in subjects
    fed = {feed.subject for feed in feeds}
    declared = profiles[source_file.partition("/")[0]].subjects
    layouts = [layout for name in subjects if name in declared for layout in declared[name].layouts]
    dating = {"hospitals", *(layout.date_from.subject for layout in layouts if layout.date_from)}
    looked_up = [pattern for layout in layouts for lookup in layout.lookups for pattern in lookup.files]
    return bool(fed & {*subjects, *dating}) or any(_inside(source_file).match(pattern) for pattern in looked_up)


def _source_and_content(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["source_file"].partition("/")[0], entry["file_sha256"]


def _by_content(hashed: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Files, by source and content."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in hashed.iter_rows(named=True):
        alike.setdefault(_source_and_content(entry), []).append(entry)
    return list(alike.values())


def _holds_records() -> pl.Expr:
    return pl.col("state").is_in(list(_HOLDS_RECORDS))


def _originals(unchanged: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Source and content hash -> the file that is loaded for it."""
    held = unchanged.filter(_holds_records()).select(*_SAME, "source_file")
    return {(source, digest): name for source, digest, name in held.iter_rows()}


def _without_false_copies(ledger: pl.DataFrame) -> pl.DataFrame:
    """The ledger with what could not be read, as its counting showed, in the place of copies of it."""
    is_false = (pl.col("state") == "duplicate") & ~_holds_records().any().over(_SAME)
    ledger = ledger.with_columns(_is_false=is_false)
    if not ledger["_is_false"].any():
        return ledger.drop("_is_false")
    unread = ledger.filter(pl.col("state") == "unreadable").unique([*_SAME, "subject"], maintain_order=True)
    unread = unread.select(*_SAME, "subject", _state="state", _problem="problem")
    found = ledger.join(unread, on=[*_SAME, "subject"], how="left").with_columns(
        _is_found=(pl.col("_is_false") & pl.col("_state").is_not_null()).any().over("source_file")
    )
    # Subjects that take nothing of it are left out, as of the file that was read; of others the next look tells.
    return (
        found.filter(~pl.col("_is_found") | pl.col("_state").is_not_null())
        .with_columns(
            state=pl.when("_is_false").then(pl.coalesce("_state", "state")).otherwise("state"),
            problem=pl.when("_is_false").then(pl.coalesce("_problem", "problem")).otherwise("problem"),
        )
        .select(_LEDGER.column_names)
    )


def _unchanged(
    known: pl.DataFrame | None,
    listed: pl.DataFrame,
    held_back: Mapping[str, str],
    zone: LandingZone,
    by: Sequence[str] = _AS_IT_WAS,
) -> pl.DataFrame:
    """The rows of an earlier ledger that hold for what is listed, which is the same file by some columns."""
    if known is None:
        return pl.DataFrame(schema=_LEDGER.polars_schema)
    # What was not opened is as it was for as long as the reason is the same.
    reason = pl.when(pl.col("encoding") == _NOT_OPENED).then("problem")
    still = (
        known.unique([*by, "subject"], keep="last", maintain_order=True)
        .drop(set(listed.columns) - set(by), strict=False)
        .join(listed, on=by, how="inner")
        .filter(pl.col("obstacle").eq_missing(reason))
        .select(_LEDGER.column_names)
    )
    # A profile that says something else may read the file otherwise, and other service days date it otherwise.
    versions = {name: _version(profile, zone) for name, profile in zone.profiles.items()}
    version = pl.col("source_profile").replace_strict(versions, default=None, return_dtype=pl.String)
    still = still.filter(pl.col("profile_sha256").eq_missing(version))
    # A copy whose original is gone, or was not loaded, is not a copy any more.
    still = still.with_columns(_is_copy=(pl.col("state") == "duplicate") & _holds_records().any().over(_SAME))
    wanted = pl.col("file_sha256").replace_strict(dict(held_back), default=None, return_dtype=pl.String)
    is_held_back = pl.when(pl.col("state").is_in(list(HELD_BACK))).then("state")
    is_sound = (pl.col("state") != "duplicate") | pl.col("_is_copy")
    is_let = wanted.eq_missing(is_held_back) | ~pl.col("state").is_in(["ready", "companion", *HELD_BACK])
    # A file that is looked at anew is so for all that it feeds.
    return still.filter((is_sound & is_let).all().over("source_file")).drop("_is_copy")


def _as_first_seen(rows: Sequence[dict[str, object]], known: pl.DataFrame | None) -> list[dict[str, object]]:
    """Ledger rows with the moments their content and name were first seen: files are looked at anew for other reasons.

    A name that had been seen before its content has been overwritten.
    """
    if known is None:
        return list(rows)
    names = known.filter(pl.col("source_file").is_in([row["source_file"] for row in rows]))
    seen, named = {}, {}
    columns = ("source_file", "file_sha256", "first_seen_at", "name_first_seen_at")
    for name, sha, at, name_at in names.select(columns).iter_rows():
        seen[name, sha] = at
        named[name] = name_at or at
    return [
        {
            **row,
            "first_seen_at": seen.get((row["source_file"], row["file_sha256"]), row["first_seen_at"]),
            "name_first_seen_at": named.get(row["source_file"], row["name_first_seen_at"]),
        }
        for row in rows
    ]


def _is_unreadable() -> nw.Expr:
    """Whether a record could not be read; one outside of its limits could."""
    problem = nw.coalesce(nw.col("problem"), nw.lit("outside_limits"))
    return problem != "outside_limits"


def _completed(unchanged: pl.DataFrame, listed: pl.DataFrame, profiles: Mapping[str, Profile]) -> pl.DataFrame:
    """Known files, with their hashes, that a companion has come to since: they are looked at anew."""
    fresh = listed.join(unchanged.select("source_file").unique(), on="source_file", how="anti")
    pairs = {
        (name.partition("/")[0], feed.subject)
        for name in fresh["source_file"]
        for feed in _fed_by(name, profiles)
        if not feed.is_main
    }
    completed = pl.DataFrame(sorted(pairs), schema={"source_profile": pl.String, "subject": pl.String}, orient="row")
    return (
        unchanged.filter(pl.col("state") == "ready")
        .join(completed, on=["source_profile", "subject"], how="semi")
        .select("source_file", "file_sha256")
        .unique()
    )
