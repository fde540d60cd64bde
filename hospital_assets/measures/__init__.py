"""Clinical and statistical definitions, without Dagster: each stated once, for facts, KPIs, alerts, checks and pages.

- `thresholds`: every threshold, with unit and source.
- `presence`: until when who has no recorded end counts as present.
- `waits`: the start of a wait, and which visits have none. `four_hour`: the start of its clock. `lwbs`: who left.
- `triage`: scales, the one in use, critical levels, targets. `news2`: points, score, response.
- `observations`: full sets, repeat intervals. `age`, `condition_groups`: how people and conditions are grouped.
- `natural_limits`, `funnel_limits`, `poisson_limits`: limits within which variation is chance.
- `words`: how texts and queries write these numbers.

Functions take and return Narwhals expressions or frames. Other rules are in the module that applies them, which
is named after them: `assets.kpis.readmissions`, `assets.kpis.occupancy`, `assets.dimensions.scd2`,
`assets.dedupe`, `landing.service_day`, `publishing.small_cells`. Does not belong here: tables (`contracts`) and
how they are made (`assets`).
"""
