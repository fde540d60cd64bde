"""hospital_assets: landed hospital files become a star schema and KPIs, as Dagster assets.

The house, in the order data passes through it (imports point only downwards in this list):

- `definitions`: the one place where everything is wired into a Dagster `Definitions`.
- `cli`: the `hospital` command, thin over the functions below.
- `automation`: jobs and the run of a whole build.
- `assets`: one function per table, by layer: raw, cleaned, dimensions, facts, kpis.
- `checks`: asset checks derived from the contracts, and those that compare tables.
- `landing`: files on disk: discovery, verification, readers, source profiles.
- `warehouse`: the DuckDB file: atomic writes, lazy reads, column lineage, engine dialects.
- `contracts`: what each table is: columns, types, units, meaning, keys, allowed values.
- `simulator`: a generated hospital network that lands files like a real one.
- `limits`, `resources`: what chance explains in a series; Dagster resources of the clock and the audit.
- `settings`, `partitions`: where things are and which service days exist.
"""
