"""hospital_assets: landed hospital files become a star schema and KPIs, as Dagster assets.

The house, from the top; a package imports only from those below it (`make floors` checks it):

- `cli`: the `hospital` command, thin over functions of the other packages.
- `definitions`: the one place where everything is wired into a Dagster `Definitions`.
- `simulator`: a generated hospital network that lands files like a real one.
- `automation`: jobs, sensors, schedules, the run of a whole build, the watcher.
- `reports`: pages as assets, generated documents.
- `spark`: everything about Spark, in one folder.
- `dashboard`: the pages people look at, and their server.
- `checks`: asset checks derived from the contracts, and those that compare tables.
- `live`: what is assessed as it lands: alert rules, the monitor, the board's data.
- `sources`: what a person uses to bring a source: drafts of profiles, dry runs.
- `assets`: one function per table, by layer: raw, cleaned, dimensions, facts, kpis.
- `recovery`: snapshots, rebuilds as of a moment, erasing a person.
- `access`: users and sign-in, the SQL gateway and its sandbox, the audit log.
- `publishing`: policy, masks, pseudonyms, small cells, the leak check, publications.
- `alerts`: what was raised and who is notified.
- `listeners`: MLLP, Kafka, NATS.
- `landing`: files on disk: discovery, verification, readers, source profiles.
- `warehouse`: the DuckDB file: atomic writes, lazy reads, column lineage, engine dialects.
- `partitions`, `clock`: which service days exist, what time it is at the hospital.
- `charts`: drawings of figures as SVG.
- `contracts`: what each table is: columns, types, units, meaning, keys, allowed values.
- `measures`: clinical and statistical definitions, without Dagster.
- `settings`: where things are.
- `files`, `toml_text`: how a file is replaced whole; where in a TOML text a mistake is.
"""
