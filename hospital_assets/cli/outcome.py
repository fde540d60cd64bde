"""The outcome of a run of checks for machines: JSON, and JUnit XML for CI.

Pure functions from results to text. Nothing in them names a patient: counts, rules, files and lines.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport


def as_json(report: BuildReport) -> str:
    """The outcome of a run of checks as JSON."""
    summary = {
        "first": report.first.isoformat(),
        "last": report.last.isoformat(),
        "seconds": round(report.seconds, 1),
        "passed": sum(check.passed for check in report.checks),
        "errors": len(report.failed_checks),
        "warnings": len(report.warnings),
        "failures": report.failures,
        "checks": [asdict(check) for check in report.checks],
    }
    return json.dumps(summary, indent=1) + "\n"


def as_junit(report: BuildReport) -> str:
    """The outcome as JUnit XML: a failed ERROR is a failure, a failed WARN is skipped with its words."""
    suite = ElementTree.Element(
        "testsuite",
        name="hospital check",
        tests=str(len(report.checks)),
        failures=str(len(report.failed_checks)),
        errors=str(len(report.failures)),
        skipped=str(len(report.warnings)),
        time=f"{report.seconds:.1f}",
    )
    for check in report.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.table, name=check.name)
        if not check.passed:
            kind = "failure" if check.severity == "ERROR" else "skipped"
            ElementTree.SubElement(case, kind, message=check.description)
    for failure in report.failures:
        case = ElementTree.SubElement(suite, "testcase", classname="step", name=failure.split(":")[0])
        ElementTree.SubElement(case, "error", message=failure)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
