"""hospital_assets: landed hospital files become a star schema and KPIs, as Dagster assets.

Which packages there are, and which imports from which, is in docs/architecture.md.

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
