"""Clinical and statistical definitions, without Dagster: each once, for facts, KPIs, alerts, checks, pages and texts.

- `thresholds`: the numbers that decide, with unit and source.
- `waits`: the start of a wait, and which visits have none. `four_hour`: the start of that clock. `lwbs`: who left.
- `triage`: scales, the one in use, critical levels, targets. `news2`: points, score, response.
- `natural_limits`: what chance alone explains.
- `words`: how texts and queries write these numbers.

Functions take and give Narwhals expressions or frames. Other rules stand where they are worked out and are found by
their name: `assets.kpis.readmissions`, `assets.kpis.occupancy`, `assets.dimensions.scd2`, `assets.dedupe`,
`landing.service_day`, `publishing.small_cells`. Does not belong here: tables (`contracts`) and how they are made
(`assets`).
"""
