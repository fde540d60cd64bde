"""Asset checks: what proves that the tables are what their contracts say.

Belongs here: checks derived from contracts (`contracts`), and those that compare tables with each
other or with the landed files (`accounting`). Severity: structure, keys and required values are
blocking errors; values outside their domain and broken references are errors; odd but possible
values are warnings with their rate. No metadata of a check holds a value of a record.
"""
