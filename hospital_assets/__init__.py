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

What a parameter (or an attribute) means everywhere is said here, beside a function only where it means something else,
and nowhere what its name and type say:

- `settings` are those of a data directory, `data_dir` is its folder, `profiles` are its source profiles,
  `definitions` its graph, `warehouse` is its open warehouse; `contract` is that of the table.
- `now` and `as_of` are of the hospital's time, `clock`, `wall` and moments as `at` and `taken_at` of the wall clock;
  `period` are service days, None is all of them; `time_zone` and `zone` are names of the IANA database.
- Frames have the columns of their table: `visits` fact_emergency_visits, `flow` fact_patient_flow, `observations`
  fact_vitals, `shifts` fact_doctor_shifts, `arrivals` kpi_arrivals_hourly, `ledger` raw_landed_files; `events` are
  cleaned ADT events; `hospitals`, `departments`, `patients`, `persons`, `conditions`, `dates` are dimensions.
- What is audited raises `AuditError` where it cannot be, and then is not done.
- `mart` and `where` are the publication and the slice of it that a page shows; `certificates` are PEM files of
  services.
"""

import os

# Matrices are small here: threads over one of them wait for each other longer than one takes alone.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
