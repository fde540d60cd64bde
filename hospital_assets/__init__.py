"""hospital_assets: landed hospital files become a star schema and KPIs, as Dagster assets.

The packages, from the top; each imports only from those below it (`make floors` checks this):

- `cli`: the `hospital` command, thin over functions of the other packages.
- `operations`: what a hospital's IT runs: services, and the doctor of an installation.
- `definitions`: the one place where everything is wired into a Dagster `Definitions`.
- `simulator`: a generated hospital network that lands files like a real one.
- `automation`: jobs, sensors, schedules, the run of a whole build, the watcher.
- `reports`: pages as assets, generated documents.
- `spark`: everything about Spark, in one folder.
- `dashboard`: its pages, and the server that answers for them.
- `checks`: asset checks derived from the contracts, and those that compare tables.
- `live`: assesses records as they land: alert rules, the monitor, the board's data.
- `sources`: tools for adding a source: drafts of profiles, dry runs.
- `assets`: one function per table, by layer: raw, cleaned, dimensions, facts, kpis.
- `recovery`: snapshots, the mirror, the history of tables, rebuilds as of a moment, erasing a person.
- `access`: users and sign-in, the SQL gateway and its sandbox, the audit log.
- `publishing`: policy, masks, pseudonyms, small cells, the leak check, publications.
- `alerts`: the outbox of alerts and the notifiers.
- `listeners`: MLLP, Kafka, NATS.
- `landing`: files on disk: discovery, verification, readers, source profiles.
- `warehouse`: the DuckDB file: atomic writes, lazy reads, column lineage, engine dialects.
- `partitions`, `clock`: which service days exist, and what time it is at the hospital.
- `charts`: drawings of figures as SVG.
- `contracts`: what each table is: columns, types, units, meaning, keys, allowed values.
- `forecasting`: forecasts of arrivals and their scores: pure functions, without Dagster.
- `measures`: clinical and statistical definitions, without Dagster.
- `settings`: where things are, and what `hospital.toml` sets.
- `directory`: the version of a data directory, and who must not work on which.
- `certificates`: TLS of servers, whose certificates are renewed while they serve.
- `files`, `toml_text`: atomic replacement of files; the line of a mistake in a TOML text.
- `workers`: processes that work for this one, and end with it.
"""

import os

# Matrices are small here: threads over one of them wait for each other longer than one takes alone.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
