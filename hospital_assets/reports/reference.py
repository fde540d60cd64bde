"""Documentation generated from the code, so that it cannot say anything else.

Belongs here: the data dictionary, the metric catalogue, the list of cleaning rules, and who sees what. `hospital docs`
writes them, `hospital docs --check` and a test fail when they are stale.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import get_args

from hospital_assets.assets.cleaned.subjects import RULES
from hospital_assets.checks.faults import FAULTS
from hospital_assets.checks.kinds import KINDS
from hospital_assets.contracts import CONTRACTS, Column, Contract, Layer
from hospital_assets.measures import thresholds
from hospital_assets.publishing.matrix import who_sees_what
from hospital_assets.publishing.policy import shipped_policy


def documents() -> dict[str, str]:
    """Every generated document by its file name."""
    return {
        **{f"data-dictionary/{name}.md": text for name, text in data_dictionary().items()},
        "cleaning-rules.md": cleaning_rules(),
        "checks.md": check_kinds(),
        "profile-reference.md": profile_reference(),
        "kpis.md": metric_catalogue(),
        "who-sees-what.md": who_sees_what(shipped_policy()),
        "kpis.json": json.dumps(metrics(), indent=1, ensure_ascii=False) + "\n",
    }


def check_kinds() -> str:
    """The kinds of checks, with a fault that each must notice."""
    parts = [
        "# Checks",
        "",
        "Generated from the code by `hospital docs`. A kind is one asset check per table; each of its "
        "single checks (a rule of a column) is stored in `quality.dq_results` with violated rows, "
        "denominator, percent, threshold and a status: Passed, Failed, NotApplicable or Error. "
        "`hospital check` runs all of them on what is stored and exits with 1 when one of severity "
        "ERROR fails (`--fail-on warn` for warnings, too; `--json` and `--junit` write files for CI); "
        "`--last` sums up the latest results, `--last --failed` lists the failed checks, and "
        "`hospital check --prove` injects the faults below into copies of your own tables and "
        "reports which checks noticed. A test demands that each is noticed, and that clean data "
        "raises nothing.",
        "",
        "| kind | family | asks | severity | faults it must notice |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        faults = "; ".join(f"{f.description} (`{f.table}`)" for f in FAULTS if f.kind is kind)
        grave = f"{kind.severity.value}{', blocking' if kind.blocking else ''}"
        parts.append(f"| `{kind.name}` | {kind.family} | {kind.description} | {grave} | {faults} |")
    parts += [
        "",
        "In addition: `landed_is_raw` and `conserved` (no record disappears), `files_readable`, "
        "`columns_known`, `columns_present`, `population_is_whole`, `reconciles`, and the standing checks "
        "`files_accounted`, `feeds_fresh`, `volume_usual` and `no_day_left_failed`.",
        "",
        "What each kind costs is measured in [performance.md](performance.md).",
    ]
    return "\n".join(parts) + "\n"


def metrics() -> list[dict[str, object]]:
    """The metric catalogue for programs: what each figure means, and where it is."""
    return [
        {**asdict(measure), "table": contract.name, "grain": contract.grain}
        for contract in CONTRACTS.values()
        for measure in contract.measures
    ]


_SHARED_RULES = (
    "- What cannot be computed is null, never NaN or infinite: a check looks at every fraction of every table.",
    "- `as_of_at` is when the row was made. While anybody of a day is undecided (waits, or is not due), the day is "
    f"made anew once a day, until {thresholds.LONGEST_PRESENCE_HOURS} hours after its end. Where the last service day "
    "is over it is when that day has ended everywhere on Earth, 12:00 UTC of the next: up to a day after the last "
    "record. Who is still there then has been there until then, so the visits that were open when the records end "
    "look longer than they may have been.",
    "- Who is transferred to another hospital has departed, and is neither discharged nor admitted here: in the "
    "four-hour standard, the rates of leaving and ECAT as any visit, in OP-18 a stratum of its own, in boarding not at "
    "all, in returns no index; of readmissions the hospital that took over has the index.",
)


def metric_catalogue() -> str:
    """The metric catalogue for people."""
    parts = [
        "# The KPI catalogue",
        "",
        "Generated from the contracts by `hospital docs`; `kpis.json` holds the same for programs. A "
        "rate's population is its n (`denominator_count`) and all exclusions, counted by "
        "reason (`excluded_*_count`); the check `adds_up` proves it in every row, "
        "`population_is_whole` that no row of the fact is missing. Rows of sources whose profile "
        "does not deliver what a figure needs are left out as `undelivered`; where all are, the figure "
        "is null: it cannot be computed. Durations are differences of "
        "instants; days, months and hours are those of the hospital's wall clock.",
        "",
        *_SHARED_RULES,
        "",
        "| figure | unit | table |",
        "|---|---|---|",
    ]
    explained = [c for c in CONTRACTS.values() if c.measures]
    for contract in explained:
        parts += [f"| {m.name} | {m.unit} | `{contract.name}` |" for m in contract.measures]
    for contract in explained:
        parts += ["", f"## {contract.name}", "", contract.summary]
        for measure in contract.measures:
            parts += [
                "",
                f"### {measure.name}",
                "",
                f"{measure.definition} Unit: {measure.unit}.",
                "",
                f"- Population: {measure.population}.",
                *([f"- Clock: {measure.clock}"] if measure.clock else []),
                *([f"- Left out: {measure.exclusions}"] if measure.exclusions else []),
                *([f"- Needs: {', '.join(f'`{need}`' for need in contract.needs)}."] if contract.needs else []),
                *([f"- Variants: {measure.variants}"] if measure.variants else []),
                f"- Source: {measure.source}. Owner: {measure.owner}.",
            ]
    return "\n".join(parts) + "\n"


#: Layer -> what its tables are.
_LAYERS: Mapping[Layer, str] = {
    "raw": "Records exactly as they landed, all text, with file and line.",
    "cleaned": "Typed, in UTC, one row per thing; and a quarantine table for records that broke a rule.",
    "dimensions": "Who, where, when, how urgent, with what.",
    "facts": "What happened, at the finest grain.",
    "kpis": "What a hospital acts on, each figure with its n and its exclusions.",
    "forecasts": "What is expected, with how sure it is and how well it was forecast before.",
}


def data_dictionary() -> dict[str, str]:
    """All tables with their columns, types, units and meaning: a page for each layer, and an index."""
    index = [
        "# Data dictionary",
        "",
        "Generated from the contracts by `hospital docs`. A column name means one thing in every table: type, "
        "unit, description and privacy class are declared once, in `hospital_assets/contracts/fields.py`; "
        "anything particular to a table follows after it. Names carry their unit or kind: `_at` is a UTC instant, "
        "`_local` a wall clock at the hospital, `_key` a surrogate key, `_id` a natural one. The raw layer has "
        "every landed value as text. The privacy class decides what a role sees: [who sees "
        "what](../who-sees-what.md).",
    ]
    pages = {}
    for layer in get_args(Layer):
        description = _LAYERS[layer]
        contracts = [contract for contract in CONTRACTS.values() if contract.layer == layer]
        index += ["", f"## [{layer}]({layer}.md)", "", description, "", "| table | one row is |", "|---|---|"]
        index += [f"| [`{c.name}`]({layer}.md#{layer}{c.name}) | {c.grain} |" for c in contracts]
        parts = [
            f"# Data dictionary: {layer}",
            "",
            f"{description} Generated by `hospital docs`; [all layers](index.md).",
        ]
        for contract in contracts:
            parts += ["", *_table(contract)]
        pages[layer] = "\n".join(parts) + "\n"
    return {"index": "\n".join(index) + "\n", **pages}


def _table(contract: Contract) -> list[str]:
    partitioned = ", partitioned by service_date" if contract.partitioned else ""
    return [
        f"## {contract.qualified_name}",
        "",
        f"{contract.summary} Key: {', '.join(contract.key)}{partitioned}.",
        "",
        "| column | type | null | unit | meaning | rules | source | privacy |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(column) for column in contract.columns),
    ]


def _row(column: Column) -> str:
    rules = [str(check.error or check.name) for check in column.checks]
    if column.plausible:
        rules.append("usually {:g} to {:g}".format(*column.plausible))
    if column.references:
        rules.append(f"in {column.references}")
    cells = (
        f"`{column.name}`",
        column.duckdb_type,
        "yes" if column.nullable else "",
        column.unit,
        column.description,
        "; ".join(rules),
        column.source,
        column.privacy.replace("_", " "),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def cleaning_rules() -> str:
    """All cleaning rules by subject."""
    parts = [
        "# Cleaning rules",
        "",
        "Generated from the rules by `hospital docs`. `quarantine` puts a record into the "
        "subject's quarantine table, `duplicate` does too as a repetition; `correct` and `flag` "
        "keep it and leave the rule's name in `quality_codes`. Nothing is clamped or invented.",
    ]
    for subject, rules in RULES.items():
        parts += ["", f"## {subject}", "", "| rule | action | what it says | source |"]
        parts += ["|---|---|---|---|"]
        parts += [f"| `{r.name}` | {r.action} | {r.description} | {r.source} |" for r in rules]
    return "\n".join(parts) + "\n"


def profile_reference() -> str:
    """Everything a source profile can say, from the models that read it."""
    from hospital_assets.landing import profile as vocabulary

    parts = [
        "# Source profiles: reference",
        "",
        "Generated from the code by `hospital docs`; the tutorial is [bring your own](bring-your-own.md).",
        "",
        *inspect.cleandoc(vocabulary.__doc__ or "").split("\n\n")[2:],
        "",
        f"Subjects: {', '.join(f'`{subject}`' for subject in vocabulary.SUBJECTS)}; their columns "
        "are those of the raw tables in [the data dictionary](data-dictionary/raw.md). "
        f"Code maps translate {', '.join(f'`{column}`' for column in vocabulary.CODED)}. "
        f"Vital signs: {', '.join(f'`{n}`' for n in (*vocabulary.MEASURED, *vocabulary.SCORED))}.",
    ]
    for model, title in _DECLARATIONS.items():
        declaration = getattr(vocabulary, model)
        summary, _, attributes = inspect.cleandoc(declaration.__doc__ or "").partition("Attributes:\n")
        described = _attributes(attributes)
        parts += ["", f"## {title}", "", " ".join(summary.split()), "", "| key | means | default |", "|---|---|---|"]
        for name, field in declaration.model_fields.items():
            default = "" if field.default in (None, "", (), {}) else f"`{json.dumps(field.default, default=str)}`"
            parts.append(f"| `{name}` | {described[name]} | {'required' if field.is_required() else default} |")
    return "\n".join(parts) + "\n"


#: Model of the vocabulary -> where it stands in a profile.
_DECLARATIONS = {
    "Profile": "The profile",
    "Source": "`[source]`",
    "Query": "`[source.queries.<subject>]`",
    "Export": "`[source.fhir]`",
    "Subject": "`[subjects.<subject>]`",
    "FixedWidth": "`[subjects.<subject>.fixed_width]`",
    "Place": "`[subjects.<subject>.fixed_width.columns]`: a column",
    "Join": "`[subjects.<subject>.join]`",
    "Lookup": "`[lookups.<name>]` and `[[subjects.<subject>.lookups]]`",
    "Versions": "`[versions]`",
    "DateLookup": "`date_from`",
    "DateAndTime": "A date and a time in `derived`",
    "Sum": "A sum in `derived`",
    "Limits": "A column's `limits`",
    "Event": "`[[subjects.adt_events.events]]`",
    "Parameter": "`[subjects.vitals.payload]`",
    "Observations": "`[subjects.vitals.observations]`",
}


def _attributes(section: str) -> dict[str, str]:
    """Name -> description of the `Attributes:` section of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {name: text.replace("|", "\\|") for name, text in found.items()}
