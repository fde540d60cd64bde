"""What to alert on, and all that is measured: rules for Prometheus, a dashboard for Grafana, and a document of both.

Rules and dashboard are examples to start from. All are made from the list of metrics, so that none is named that there
is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import yaml

from hospital_assets.operations.doctor import (
    BACKUP_AGE,
    CERTIFICATE_DAYS,
    FREE_PER_WAREHOUSE,
    LEAST_FREE_BYTES,
    VERIFIED_AGE,
)
from hospital_assets.operations.metrics import METRICS, Metric

_HOUR, _DAY = 3_600, 86_400
_REQUESTS = "hospital_request_duration_seconds"


@dataclass(frozen=True)
class Rule:
    """When somebody must look at an installation.

    Attributes:
        name: of the alert.
        when: a PromQL expression that holds then.
        minutes: for so long it must hold.
        severity: critical: now; warning: today.
        summary: what is the matter.
        remedy: what to do.
    """

    name: str
    when: str
    minutes: int
    severity: Literal["critical", "warning"]
    summary: str
    remedy: str


def _age(metric: str, seconds: int) -> str:
    return f"time() - {metric} > {seconds}"


RULES = (
    Rule(
        "HospitalNotMeasured",
        "absent(hospital_collected_timestamp_seconds)",
        5,
        "critical",
        "No metrics arrive.",
        "Is the dashboard up, and may Prometheus read its /metrics?",
    ),
    Rule(
        "HospitalMetricsOld",
        _age("hospital_collected_timestamp_seconds", 900),
        5,
        "warning",
        "The metrics are of 15 minutes ago or more.",
        "Does the timer of `hospital metrics --textfile` run?",
    ),
    Rule(
        "HospitalPartUnreadable",
        "hospital_part_readable == 0",
        15,
        "warning",
        "{{ $labels.part }} cannot be read.",
        "`hospital doctor` says what is wrong; the next run writes a damaged copy anew.",
    ),
    Rule(
        "HospitalFilesWait",
        _age("hospital_feed_waiting_timestamp_seconds", _HOUR),
        5,
        "critical",
        "Files of {{ $labels.subject }} wait for over an hour.",
        "`hospital status`: is anything loading, is the warehouse held, are files held back?",
    ),
    Rule(
        "HospitalNothingLands",
        _age('hospital_feed_landed_timestamp_seconds{subject=~"vitals|er_visits|adt_events"}', 26 * _HOUR),
        30,
        "critical",
        "No file of {{ $labels.subject }} has landed for over a day.",
        "Ask the sender; `hospital sources` for what is pulled.",
    ),
    Rule(
        "HospitalRunsFail",
        "hospital_run_failure_timestamp_seconds > "
        "(hospital_run_success_timestamp_seconds or hospital_run_failure_timestamp_seconds * 0)",
        15,
        "warning",
        "{{ $labels.dagster_job }} failed last.",
        "The run's page in Dagster says why.",
    ),
    Rule(
        "HospitalRunsWait",
        'min_over_time(hospital_runs{status="queued"}[1h]) > 0',
        0,
        "warning",
        "Runs have waited in the queue for an hour.",
        "Which run goes on, and who has the warehouse?",
    ),
    Rule(
        "HospitalDaemonSilent",
        _age("hospital_daemon_heartbeat_timestamp_seconds", 300),
        5,
        "critical",
        "Dagster's daemon gives no sign of life: no sensor, no schedule.",
        "`systemctl status hospital-daemon`.",
    ),
    Rule(
        "HospitalWarehouseHeld",
        f"hospital_warehouse_waited_for == 1 and {_age('hospital_warehouse_held_timestamp_seconds', _HOUR)}",
        5,
        "warning",
        "A process waits for the warehouse, which another has had for over an hour.",
        "`hospital status` names it: let it finish or end it.",
    ),
    Rule(
        "HospitalChecksFail",
        'hospital_checks{severity="error", status=~"failed|error"} > 0',
        5,
        "warning",
        "ERROR checks failed.",
        "`hospital check --last --failed`, or the quality page.",
    ),
    Rule(
        "HospitalMessagesWait",
        _age("hospital_alert_message_waiting_timestamp_seconds", 600),
        0,
        "critical",
        "Messages about alerts cannot be sent.",
        "`hospital alerts`: what does the notifier say?",
    ),
    Rule(
        "HospitalQuarantineGrows",
        "hospital_quarantined_records - hospital_quarantined_records offset 1d > 100",
        0,
        "warning",
        "Over 100 more records of {{ $labels.subject }} in quarantine than a day ago.",
        "The quality page says by which rule.",
    ),
    Rule(
        "HospitalPublicationsOld",
        _age("hospital_publication_timestamp_seconds", 26 * _HOUR),
        30,
        "warning",
        "A publication is over a day old.",
        "`hospital publish` says what stops it.",
    ),
    Rule(
        "HospitalForecastsWorse",
        "hospital_forecast_mase_ratio > 1.2 or hospital_forecast_coverage_ratio < 0.5",
        24 * 60,
        "warning",
        "Forecasts of {{ $labels.target }} at {{ $labels.hospital }} are worse than the same slot a week before, "
        "or their intervals too narrow.",
        "The Forecast page.",
    ),
    Rule(
        "HospitalDiskFull",
        f"hospital_disk_free_bytes < {LEAST_FREE_BYTES} or "
        f"hospital_disk_free_bytes < {FREE_PER_WAREHOUSE} * hospital_warehouse_size_bytes",
        10,
        "critical",
        "Little room is left on the disk.",
        "Old snapshots (`hospital snapshots`), publications, runs.",
    ),
    Rule(
        "HospitalSnapshotOld",
        _age("hospital_snapshot_timestamp_seconds", 8 * _DAY),
        60,
        "warning",
        "The newest snapshot is over a week old.",
        "`hospital snapshot`; does its timer run?",
    ),
    Rule(
        "HospitalBackupOld",
        f"hospital_backups == 0 or {_age('hospital_backup_timestamp_seconds', int(BACKUP_AGE.total_seconds()))}",
        60,
        "critical",
        f"The newest backup is over {BACKUP_AGE // timedelta(hours=1)} hours old, or there is none.",
        "`hospital backup create` says what stops it; does its timer run, is its disk there?",
    ),
    Rule(
        "HospitalBackupUnverified",
        " or ".join(
            _age(f'hospital_backup_verified_timestamp_seconds{{depth="{depth}"}}', int(age.total_seconds()))
            for depth, age in VERIFIED_AGE.items()
        ),
        60,
        "warning",
        "No backup was verified ({{ $labels.depth }}) for too long, or ever.",
        "`hospital backup verify`; with `--identity`, where the secret key is, for its content.",
    ),
    Rule(
        "HospitalBackupDamaged",
        "hospital_backups_damaged > 0",
        0,
        "critical",
        "A backup is not whole.",
        "`hospital backup verify NAME` says what is wrong; make another on another disk.",
    ),
    Rule(
        "HospitalCertificateEnds",
        f"hospital_certificate_expiry_timestamp_seconds - time() < {CERTIFICATE_DAYS * _DAY}",
        60,
        "warning",
        f"A certificate ends within {CERTIFICATE_DAYS} days.",
        "Renew it, and restart what uses it.",
    ),
    Rule(
        "HospitalPagesFail",
        f'sum by (instance, page) (rate({_REQUESTS}_count{{status="5xx"}}[10m])) > 0',
        10,
        "warning",
        "{{ $labels.page }} cannot be answered.",
        "The log of the dashboard or the gateway.",
    ),
    Rule(
        "HospitalPagesSlow",
        f"histogram_quantile(0.95, sum by (instance, page, le) (rate({_REQUESTS}_bucket[10m]))) > 5",
        15,
        "warning",
        "One in twenty answers of {{ $labels.page }} takes over five seconds.",
        "A shorter period, fewer users at once, more memory.",
    ),
)


def alert_rules() -> str:
    """The rules as a file of Prometheus."""
    rules = [
        {
            "alert": rule.name,
            "expr": rule.when,
            **({"for": f"{rule.minutes}m"} if rule.minutes else {}),
            "labels": {"severity": rule.severity},
            "annotations": {"summary": rule.summary, "description": rule.remedy},
        }
        for rule in RULES
    ]
    text: str = yaml.safe_dump({"groups": [{"name": "hospital", "rules": rules}]}, sort_keys=False, width=110)
    return f"# Written by `hospital deploy monitoring`: an example to start from.\n{text}"


def grafana_dashboard() -> str:
    """A dashboard of all metrics as JSON that Grafana imports."""
    panels: list[dict[str, Any]] = []
    y = 0
    for part in dict.fromkeys(metric.part for metric in METRICS):
        panels.append(_panel(len(panels), "row", part.capitalize(), 0, y, 24, 1))
        y += 1
        shown = [metric for metric in METRICS if metric.part == part]
        for place, metric in enumerate(shown):
            panel = _panel(len(panels), "timeseries", metric.help, place % 3 * 8, y + place // 3 * 7, 8, 7)
            query, unit, legend = _query(metric)
            source = {"type": "prometheus", "uid": "${source}"}
            panel |= {
                "datasource": source,
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "targets": [{"refId": "A", "datasource": source, "expr": query, "legendFormat": legend}],
            }
            panels.append(panel)
        y += (len(shown) + 2) // 3 * 7
    listed = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}
    found = {
        "title": "Hospital: how the platform stands",
        "uid": "hospital-assets",
        "tags": ["hospital_assets"],
        "schemaVersion": 39,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [listed]},
        "panels": panels,
    }
    return json.dumps(found, indent=1) + "\n"


def _panel(number: int, kind: str, title: str, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, "type": kind, "title": title, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _query(metric: Metric) -> tuple[str, str, str]:
    """How a metric is drawn: PromQL, Grafana's unit, and what a line is called."""
    labels = metric.labels
    if metric.kind == "histogram":
        query = f"histogram_quantile(0.95, sum by (page, le) (rate({metric.name}_bucket[10m])))"
        unit, labels = "s", ("page",)
    elif metric.name.endswith("_expiry_timestamp_seconds"):
        query, unit = f"{metric.name} - time()", "s"
    elif metric.name.endswith("_timestamp_seconds"):
        query, unit = f"time() - {metric.name}", "s"
    else:
        units = {"seconds": "s", "bytes": "bytes", "ratio": "none"}
        query, unit = metric.name, units.get(metric.name.rpartition("_")[2], "short")
    return query, unit, " ".join(f"{{{{{label}}}}}" for label in labels) or "{{instance}}"


def document() -> str:
    """What is measured and what to alert on, for people."""
    parts = [
        "# What is measured, and what to alert on",
        "",
        "Generated from the code by `hospital docs`; who may read metrics: [operations](operations.md#metrics).",
        "",
        "| metric | labels | what it is |",
        "|---|---|---|",
        *(f"| `{metric.name}` | {', '.join(metric.labels)} | {metric.help} |" for metric in METRICS),
        "",
        "## Alerts",
        "",
        "`hospital deploy monitoring` writes these rules for Prometheus. `critical` is for now, `warning` for today.",
        "",
        "| alert | severity | when | what to do |",
        "|---|---|---|---|",
    ]
    for rule in RULES:
        summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"(\1)", rule.summary)
        parts.append(f"| `{rule.name}` | {rule.severity} | {summary} | {rule.remedy} |")
    return "\n".join(parts) + "\n"


def files() -> Iterator[tuple[str, str]]:
    """What `hospital deploy monitoring` writes: name and text."""
    yield "prometheus-alerts.yml", alert_rules()
    yield "grafana-dashboard.json", grafana_dashboard()
