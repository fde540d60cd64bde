"""The outbox: alerts, their state, and the messages still to be sent.

One SQLite file next to the warehouse, not a table in it: alerts must not wait for a run that has the
warehouse locked, and several processes write here. Everything a look has found is one transaction, and
the same records looked at again change nothing, so a kill at any point neither loses an alert nor
sends it as two. The asset `fact_alerts` brings the alerts into the warehouse.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hospital_assets.alerts.settings import AlertSettings, NotifierSettings, Severity, load_alert_settings
from hospital_assets.files import in_transaction
from hospital_assets.settings import Settings

_SCHEMA = """
create table if not exists alerts (
    alert_id text primary key, alert_key text not null, rule text not null, severity text not null,
    state text not null check (state in ('open', 'acknowledged', 'resolved')),
    hospital_id text, department_name text, subject text not null, summary text not null,
    value real, worst_value real, threshold real, unit text,
    observed_at text not null, opened_at text not null, last_seen_at text not null,
    acknowledged_at text, acknowledged_by text, resolved_at text,
    occurrence_count integer not null default 1);
create index if not exists alerts_by_key on alerts (alert_key, opened_at);
create index if not exists alerts_unresolved on alerts (rule) where state <> 'resolved';
create table if not exists signals (alert_key text primary key, observed_at text not null);
create index if not exists signals_by_time on signals (observed_at);
create table if not exists assessed_files (file_sha256 text primary key, assessed_at text not null);
create table if not exists visits (
    visit_id text primary key, hospital_id text, department_name text, triage_level integer,
    start_at text not null, is_waiting integer not null, recorded_at text not null);
create index if not exists visits_by_time on visits (start_at);
create table if not exists deliveries (
    delivery_id text primary key, alert_id text not null, notifier text not null, event text not null,
    message text not null, created_at text not null, attempt_count integer not null default 0,
    next_attempt_at text not null, delivered_at text, given_up_at text, last_error text, silence_id text);
create table if not exists silences (
    silence_id text primary key, alert_key text, rule text, hospital_id text, department_name text,
    until_at text not null, reason text not null, silenced_by text not null, created_at text not null);
"""
#: Silence is for hours, not for good: what stays true should have another limit in `alerts.toml`.
LONGEST_SILENCE = timedelta(hours=24)
#: What was said of a visit is forgotten after so long, but for what is still open; no limit of `alerts.toml` looks as
#: far back.
REMEMBERED = timedelta(days=31)
#: Seconds until the next attempt: doubled each time, up to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 600.0
_MOST_ATTEMPTS = 30
#: A delivery under way is left alone by other processes for this long.
_LEASE = timedelta(seconds=30)
#: Moments of records may be so far ahead: clocks of devices differ, and in the hour that clocks show twice critical
#: vital signs count as of the second time.
_AHEAD = timedelta(minutes=70)
#: Of silences, those that hold at a moment: one that a clock that was ahead has begun does not.
_IN_FORCE = "created_at <= ? and until_at > ?"


@dataclass(frozen=True)
class Signal:
    """How one thing stands under one rule at one moment.

    Attributes:
        subject: what it is about; may identify a patient, so it never leaves the outbox.
        observed_at: the moment, in the hospital's time.
        is_raised: True raises, False clears, None leaves things as they are (hysteresis).
        summary: what to tell people; names no patient.
        value: the figure, in `unit`.
        threshold: what it was compared with.
        unit: of both.
        corrects: where a source has corrected or withdrawn what was known, the moments of all that was looked at anew:
            this holds, whatever was said of later ones among them.
    """

    rule: str
    subject: str
    observed_at: datetime
    is_raised: bool | None
    severity: Severity
    summary: str
    value: float | None = None
    threshold: float | None = None
    unit: str | None = None
    hospital_id: str | None = None
    department_name: str | None = None
    corrects: frozenset[datetime] = frozenset()

    @property
    def key(self) -> str:
        """What identifies the condition: the rule and the thing."""
        return f"{self.rule}|{self.subject}"


@dataclass(frozen=True)
class VisitState:
    """A visit as last recorded.

    Attributes:
        triage_level: as last triaged.
        start_at: when the wait began.
        is_waiting: critical (triage 1 or 2), and neither seen nor gone yet.
        recorded_at: when the record was written.
    """

    visit_id: str
    hospital_id: str
    department_name: str | None
    triage_level: int | None
    start_at: datetime
    is_waiting: bool
    recorded_at: datetime


@dataclass(frozen=True)
class Delivery:
    """A message to be sent."""

    delivery_id: str
    notifier: str
    message: Mapping[str, Any]
    attempt_count: int


class Outbox:
    """Alerts and deliveries of a data directory. Safe to use from several processes and threads at once."""

    def __init__(self, file: Path, notifiers: Sequence[NotifierSettings] = ()) -> None:
        """Open the outbox.

        Args:
            file: the SQLite file; made when absent.
            notifiers: who is to hear of what is recorded.
        """
        self._notifiers = notifiers
        # Threads share the connection, and with it the transaction that one of them has open.
        self._lock = threading.RLock()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("pragma journal_mode = wal")
        self._connection.executescript(_SCHEMA)
        if "silence_id" not in {row["name"] for row in self._rows("pragma table_info(deliveries)")}:
            self._connection.execute("alter table deliveries add column silence_id text")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def record(
        self,
        signals: Iterable[Signal],
        now: datetime,
        *,
        cooldown: timedelta = timedelta(0),
        snapshots: Mapping[str, datetime] | None = None,
        assessed: Collection[str] = (),
        visits: Iterable[VisitState] = (),
    ) -> int:
        """Take in what a look has found, all or nothing; returns how many alerts it opened.

        An older signal never overrules a newer one of the same thing, unless it corrects that or that is of a time to
        come, and the same signal again changes nothing. Of two of one moment the one that raises holds.

        Args:
            signals: in any order.
            cooldown: what is raised again within this time of its end is the same alert.
            snapshots: rules of which `signals` name everything that is raised, with the moment of
                the look: their other alerts are over.
            assessed: files that need not be assessed again, as `not_assessed` has them.
            visits: visits as just recorded.
        """
        opened = 0
        with self._transaction():
            for visit in visits:
                self._put_visit(visit)
            ordered = sorted(signals, key=lambda signal: (signal.observed_at, not signal.is_raised))
            for signal in ordered:
                opened += self._take(signal, now, cooldown, is_of_now=signal.rule in (snapshots or {}))
            for rule, moment in (snapshots or {}).items():
                still = {s.key for s in ordered if s.rule == rule and s.is_raised is not False}
                for row in self._rows("select * from alerts where rule = ? and state <> 'resolved'", rule):
                    is_newer = row["observed_at"] > _text(moment) and not _is_to_come(row["observed_at"], now)
                    if row["alert_key"] not in still and not is_newer:
                        self._resolve(row, now)
            self._connection.executemany(
                "insert or ignore into assessed_files values (?, ?)", [(file, _text(now)) for file in assessed]
            )
            self._forget(_text(now - REMEMBERED))
        return opened

    def _forget(self, before: str) -> None:
        self._connection.execute("delete from visits where start_at < ?", [before])
        self._connection.execute(
            "delete from signals where observed_at < ? "
            "and alert_key not in (select alert_key from alerts where state <> 'resolved')",
            [before],
        )

    def _take(self, signal: Signal, now: datetime, cooldown: timedelta, *, is_of_now: bool) -> bool:
        seen = self._rows("select observed_at from signals where alert_key = ?", signal.key)
        # Of what is said of one moment the worse holds, whichever landed first: "!" sorts after nothing.
        said_of = _text(signal.observed_at) + ("!" if signal.is_raised else "")
        # A clock that was ahead must not silence what comes until then.
        ahead = timedelta(0) if is_of_now else _AHEAD
        if seen and seen[0]["observed_at"] >= said_of and not _is_to_come(seen[0]["observed_at"], now, ahead):
            corrected = {_text(moment) for moment in signal.corrects}
            if seen[0]["observed_at"].rstrip("!") not in corrected:
                return False
        # The one that is open may be an older one, opened again.
        found = self._rows(
            "select * from alerts where alert_key = ? order by state = 'resolved', opened_at desc, rowid desc limit 1",
            signal.key,
        )
        last = found[0] if found else None
        is_open = last is not None and last["state"] != "resolved"
        # What is looked at anew each time is never heard of late.
        if not is_open and (signal.is_raised is None or (is_of_now and not signal.is_raised)):
            return False
        self._connection.execute("insert or replace into signals values (?, ?)", (signal.key, said_of))
        if not is_open and not signal.is_raised:
            return False
        if signal.is_raised is False:
            self._resolve(last, now)
        elif last is not None and is_open:
            self._connection.execute(
                "update alerts set value = ?, worst_value = ?, last_seen_at = ?, summary = ? where alert_id = ?",
                (
                    signal.value,
                    _worse(last, signal),
                    _text(signal.observed_at),
                    signal.summary if signal.is_raised else last["summary"],
                    last["alert_id"],
                ),
            )
        elif last is not None and now - _instant(last["resolved_at"]) < cooldown:
            self._reopen(last, signal)
        else:
            return self._open(signal, now)
        return False

    def _open(self, signal: Signal, now: datetime) -> bool:
        identity = f"{signal.key}|{_text(signal.observed_at)}"
        alert_id = hashlib.sha256(identity.encode()).hexdigest()[:16]
        same = {k: v for k, v in asdict(signal).items() if k not in ("observed_at", "is_raised", "corrects")}
        is_new = self._add(
            "alerts",
            alert_id=alert_id,
            alert_key=signal.key,
            state="open",
            worst_value=signal.value,
            observed_at=_text(signal.observed_at),
            opened_at=_text(now),
            last_seen_at=_text(signal.observed_at),
            **same,
        )
        if is_new:
            self._tell(alert_id, "opened")
        else:
            # What ended it was withdrawn: what opened it is the newest that stands.
            self._reopen(self._rows("select * from alerts where alert_id = ?", alert_id)[0], signal)
        return is_new

    def _reopen(self, row: sqlite3.Row, signal: Signal) -> None:
        self._connection.execute(
            "update alerts set state = 'open', resolved_at = null, acknowledged_at = null, acknowledged_by = null, "
            "value = ?, worst_value = ?, last_seen_at = ?, summary = ?, occurrence_count = occurrence_count + 1 "
            "where alert_id = ?",
            (signal.value, _worse(row, signal), _text(signal.observed_at), signal.summary, row["alert_id"]),
        )
        self._tell(row["alert_id"], "opened")

    def _add(self, table: str, **values: object) -> bool:
        """Add a row that may be there already; whether it was not."""
        sql = f"insert or ignore into {table} ({', '.join(values)}) values ({', '.join('?' * len(values))})"
        return self._connection.execute(sql, list(values.values())).rowcount > 0

    def _resolve(self, row: sqlite3.Row | None, now: datetime) -> None:
        if row is None:
            return
        self._connection.execute(
            "update alerts set state = 'resolved', resolved_at = ? where alert_id = ?", (_text(now), row["alert_id"])
        )
        self._tell(row["alert_id"], "resolved")

    def _tell(self, alert_id: str, event: str) -> None:
        """Queue a message for each notifier that wants it and would otherwise go on to believe the opposite."""
        (row,) = self._rows("select * from alerts where alert_id = ?", alert_id)
        wall = _text(datetime.now(UTC))
        silence = self._silence_of(row, wall)
        for notifier in self._notifiers:
            if not notifier.wants(row["severity"]):
                continue
            # What is over, or back, before it was said needs no notice.
            self._connection.execute(
                "delete from deliveries where alert_id = ? and notifier = ? and event <> ? and attempt_count = 0 "
                "and delivered_at is null and (next_attempt_at <= created_at or silence_id is not null)",
                (alert_id, notifier.name, event),
            )
            last = self._rows(
                "select event from deliveries where alert_id = ? and notifier = ? and given_up_at is null "
                "order by rowid desc limit 1",
                alert_id,
                notifier.name,
            )
            believed = last[0]["event"] if last else "resolved"
            if believed == event or (event == "resolved" and not notifier.says_resolved):
                continue
            turn = f"{alert_id}-{event}-{row['occurrence_count']}"
            self._add(
                "deliveries",
                delivery_id=f"{turn}-{notifier.name}",
                alert_id=alert_id,
                notifier=notifier.name,
                event=event,
                message=json.dumps(message_of(row, event)),
                created_at=wall,
                next_attempt_at=silence["until_at"] if silence else wall,
                silence_id=silence["silence_id"] if silence else None,
            )

    def _silence_of(self, row: sqlite3.Row, wall: str) -> sqlite3.Row | None:
        """The silence that an alert falls under; of several the one that ends last."""
        found = self._rows(
            f"select * from silences where {_IN_FORCE} and coalesce(alert_key, ?) = ? and coalesce(rule, ?) = ? "
            "and coalesce(hospital_id, ?) is ? and coalesce(department_name, ?) is ? order by until_at desc limit 1",
            wall,
            wall,
            *(row[name] for name in ("alert_key", "rule", "hospital_id", "department_name") for _ in range(2)),
        )
        return found[0] if found else None

    def _put_visit(self, visit: VisitState) -> None:
        values = asdict(visit) | {"start_at": _text(visit.start_at), "recorded_at": _text(visit.recorded_at)}
        names = ", ".join(values)
        changes = ", ".join(f"{name} = excluded.{name}" for name in values)
        self._connection.execute(
            f"insert into visits ({names}) values ({', '.join('?' * len(values))}) "
            f"on conflict (visit_id) do update set {changes} "
            # Sources that do not say when they wrote a record say the same of each: then the last to land holds.
            "where excluded.recorded_at >= visits.recorded_at",
            list(values.values()),
        )

    def waiting_visits(self, since: datetime) -> list[VisitState]:
        """Critical visits that wait for a provider and began after a moment."""
        return [
            VisitState(
                **{
                    **dict(row),
                    "start_at": _instant(row["start_at"]),
                    "recorded_at": _instant(row["recorded_at"]),
                    "is_waiting": True,
                }
            )
            for row in self._rows("select * from visits where is_waiting and start_at >= ?", _text(since))
        ]

    def not_assessed(self, files: Collection[str]) -> set[str]:
        """Those of some files, each as `source:` and the hash of its content, that no look has assessed."""
        # Older programs noted the hash alone.
        known = "select file_sha256 from assessed_files"
        unknown = f"select value from json_each(?) where value not in ({known}) and substr(value, -64) not in ({known})"
        return {row[0] for row in self._rows(unknown, json.dumps(list(files)))}

    def open_subjects(self, rule: str) -> set[str]:
        """The subjects of a rule's open alerts."""
        return {
            row["subject"]
            for row in self._rows("select subject from alerts where rule = ? and state <> 'resolved'", rule)
        }

    # For people ----------------------------------------------------------------------------------

    def alerts(self, *, with_resolved: bool = False) -> list[dict[str, Any]]:
        """Alerts as rows, the newest first; subjects included, so not for messages."""
        where = "" if with_resolved else "where state <> 'resolved'"
        return [dict(row) for row in self._rows(f"select * from alerts {where} order by opened_at desc, alert_id")]

    def acknowledge(self, alert_id: str, by: str, now: datetime) -> bool:
        """Somebody takes care of an open alert; False when there is no such open alert."""
        with self._transaction():
            changed = self._connection.execute(
                "update alerts set state = 'acknowledged', acknowledged_at = ?, acknowledged_by = ? "
                "where alert_id = ? and state = 'open'",
                (_text(now), by, alert_id),
            ).rowcount
        return bool(changed)

    def resolve(self, alert_id: str, now: datetime) -> bool:
        """Close an alert by hand; False when there is no such open alert."""
        with self._transaction():
            found = self._rows("select * from alerts where alert_id = ? and state <> 'resolved'", alert_id)
            if found:
                self._resolve(found[0], now)
        return bool(found)

    def silence(
        self,
        span: timedelta,
        reason: str,
        by: str,
        wall: datetime,
        *,
        alert_id: str | None = None,
        rule: str | None = None,
        hospital_id: str | None = None,
        department_name: str | None = None,
    ) -> str:
        """Send no messages about an alert, or about a rule (at a place), for some time; returns the silence's number.

        Alerts are raised, listed and counted as ever. What is still open when the silence ends is sent then.

        Raises:
            ValueError: neither an alert nor a rule is named, there is no such alert, it is for too long, or without a
                reason.
        """
        if not timedelta(0) < span <= LONGEST_SILENCE:
            raise ValueError(f"a silence lasts up to {LONGEST_SILENCE // timedelta(hours=1)} hours")
        if not reason.strip() or not (alert_id or rule):
            raise ValueError("say what is to be silent (an alert or a rule), and why")
        with self._transaction():
            found = self._rows("select alert_key from alerts where alert_id = ?", alert_id)
            if alert_id and not found:
                raise ValueError(f"there is no alert {alert_id}")
            key = found[0]["alert_key"] if found else None
            until = _text(wall + span)
            number = hashlib.sha256(f"{key}|{rule}|{hospital_id}|{department_name}|{wall}".encode()).hexdigest()[:12]
            self._connection.execute(
                "insert into silences values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, key, rule, hospital_id, department_name, until, reason, by, _text(wall)),
            )
            # What was not sent yet is silent, too.
            for row in self._rows("select * from alerts where state <> 'resolved'"):
                if (silence := self._silence_of(row, _text(wall))) and silence["silence_id"] == number:
                    self._connection.execute(
                        "update deliveries set next_attempt_at = ?, silence_id = ? where alert_id = ? "
                        "and delivered_at is null and given_up_at is null",
                        (until, number, row["alert_id"]),
                    )
        return number

    def end_silence(self, silence_id: str, wall: datetime) -> bool:
        """Let messages through again at once; False when there is no such silence any more."""
        with self._transaction():
            ended = self._connection.execute(
                "update silences set until_at = ? where silence_id = ? and until_at > ?",
                (_text(wall), silence_id, _text(wall)),
            ).rowcount
            self._connection.execute(
                "update deliveries set next_attempt_at = ? where silence_id = ? and delivered_at is null",
                (_text(wall), silence_id),
            )
        return bool(ended)

    def silences(self, wall: datetime) -> list[dict[str, Any]]:
        """What is silent now, until when and why."""
        return [dict(row) for row in self._rows(f"select * from silences where {_IN_FORCE}", *[_text(wall)] * 2)]

    def explain(self, alert_id: str, wall: datetime) -> list[str]:
        """Why an alert is there and who was notified of it, in lines; empty when there is none."""
        found = self._rows("select * from alerts where alert_id = ?", alert_id)
        if not found:
            return []
        (row,) = found
        lines = [f"{row['rule']}: {row['summary']}; seen from {row['observed_at']} to {row['last_seen_at']}"]
        silence = self._silence_of(row, _text(wall))
        if silence:
            lines.append(f"silent until {silence['until_at']}, by {silence['silenced_by']}: {silence['reason']}")
        for sent in self._rows("select * from deliveries where alert_id = ? order by created_at", alert_id):
            if sent["delivered_at"]:
                became = f"delivered at {sent['delivered_at']}"
            elif sent["given_up_at"]:
                became = f"given up at {sent['given_up_at']}: {sent['last_error']}"
            else:
                became = f"next attempt at {sent['next_attempt_at']}" + (
                    f": {sent['last_error']}" if sent["last_error"] else ""
                )
            lines.append(f"{sent['event']}, {sent['notifier']}: {became}")
        return lines

    # For delivery --------------------------------------------------------------------------------

    def due(self, wall: datetime, most: int = 50) -> list[Delivery]:
        """Messages to send now, each notifier's in turn; for a while no other process gets the same ones."""
        with self._transaction():
            # Of what one notifier is to hear of one alert, only the first: its last word must come last. Those that
            # were tried least come first: one that is refused each time holds up no other. What a clock that was ahead
            # has put off is due.
            rows = self._rows(
                "select * from (select *, row_number() over (partition by alert_id, notifier order by rowid) as place "
                "from deliveries where delivered_at is null and given_up_at is null) "
                "where place = 1 and (next_attempt_at <= ? or (silence_id is null and next_attempt_at > ?) "
                "or silence_id in (select silence_id from silences where created_at > ?)) "
                "order by row_number() over (partition by notifier order by attempt_count, created_at, "
                "delivery_id), created_at, delivery_id limit ?",
                _text(wall),
                _text(wall + timedelta(seconds=_LONGEST_PAUSE)),
                _text(wall),
                most,
            )
            self._connection.executemany(
                "update deliveries set next_attempt_at = ?, silence_id = null where delivery_id = ?",
                [(_text(wall + _LEASE), row["delivery_id"]) for row in rows],
            )
        return [
            Delivery(row["delivery_id"], row["notifier"], json.loads(row["message"]), row["attempt_count"])
            for row in rows
        ]

    def delivered(self, delivery: Delivery, wall: datetime) -> None:
        """A message has arrived."""
        with self._transaction():
            self._connection.execute(
                "update deliveries set delivered_at = ?, attempt_count = attempt_count + 1, "
                "last_error = null where delivery_id = ?",
                (_text(wall), delivery.delivery_id),
            )

    def not_delivered(self, delivery: Delivery, wall: datetime, why: str, *, was_tried: bool = True) -> None:
        """A message has not arrived, or was not tried: try again later, after each attempt with a longer pause."""
        attempts = delivery.attempt_count + was_tried
        pause = min(_FIRST_PAUSE * 2 ** max(attempts - 1, 0), _LONGEST_PAUSE)
        with self._transaction():
            self._connection.execute(
                "update deliveries set attempt_count = ?, next_attempt_at = ?, last_error = ?, "
                "given_up_at = ? where delivery_id = ?",
                (
                    attempts,
                    _text(wall + timedelta(seconds=pause)),
                    why,
                    _text(wall) if attempts >= _MOST_ATTEMPTS else None,
                    delivery.delivery_id,
                ),
            )

    def _rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, in_transaction(self._connection):
            yield


@dataclass(frozen=True)
class Standing:
    """How alerts and messages stand.

    Attributes:
        open: severity -> alerts that are not resolved.
        messages: `sent`, `waiting` or `given_up` -> messages; those silenced for a time wait.
        waits_since: when the oldest message that is due, and was not silenced, was queued; None where none is.
    """

    open: Mapping[str, int] = field(default_factory=dict)
    messages: Mapping[str, int] = field(default_factory=dict)
    waits_since: datetime | None = None


def standing(settings: Settings) -> Standing:
    """How alerts and messages stand, read without taking part: nobody waits for it, and it makes no outbox.

    Raises:
        sqlite3.Error: the outbox cannot be read.
    """
    file = outbox_file(settings)
    if not file.exists():
        return Standing()
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=3)) as connection:
        is_open = "select severity, count(*) from alerts where state <> 'resolved' group by severity order by severity"
        state = (
            "case when delivered_at is not null then 'sent' when given_up_at is not null then 'given_up' "
            "else 'waiting' end"
        )
        since = (
            "select min(created_at) from deliveries "
            "where delivered_at is null and given_up_at is null and silence_id is null"
        )
        ((oldest,),) = connection.execute(since).fetchall()
        return Standing(
            dict(connection.execute(is_open).fetchall()),
            dict(connection.execute(f"select {state} as state, count(*) from deliveries group by 1").fetchall()),
            None if oldest is None else _instant(oldest),
        )


def outbox_file(settings: Settings) -> Path:
    """Where the outbox of a data directory is."""
    return settings.data_dir / "alerts" / "outbox.sqlite"


def open_outbox(settings: Settings, alerts: AlertSettings | None = None) -> Outbox:
    """The outbox of a data directory; close it when done."""
    alerts = alerts or load_alert_settings(settings)
    return Outbox(outbox_file(settings), alerts.notify)


#: What a message says of an alert; `subject` and `alert_key` stay inside.
_SAID = (
    "alert_id",
    "rule",
    "severity",
    "state",
    "summary",
    "hospital_id",
    "department_name",
    "value",
    "threshold",
    "unit",
    "observed_at",
    "opened_at",
    "resolved_at",
)


def message_of(row: sqlite3.Row | Mapping[str, Any], event: str) -> dict[str, Any]:
    """The message of an alert: nothing in it identifies the patient."""
    return {"event": event, **{name: row[name] for name in _SAID}}


def _worse(last: sqlite3.Row, signal: Signal) -> float | None:
    """The worse of two values: further from the side on which the threshold was passed."""
    if signal.value is None or last["worst_value"] is None:
        return signal.value if last["worst_value"] is None else last["worst_value"]
    is_upper = signal.threshold is None or signal.value >= signal.threshold
    return (max if is_upper else min)(signal.value, float(last["worst_value"]))


def _is_to_come(stored: str, now: datetime, ahead: timedelta = timedelta(0)) -> bool:
    """Whether neither the hospital's clock nor the wall clock has come to a stored moment yet."""
    return stored.rstrip("!") > _text(max(now, datetime.now(UTC)) + ahead)


def _text(moment: datetime) -> str:
    """A UTC instant as text that sorts by time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _instant(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
