"""Asset checks: they prove that tables are what their contracts declare.

Belongs here: checks derived from contracts (`contract_checks`, `declared`), and those that compare tables with
each other or with the landed files (`accounting`, `delivery`). Severity: structure, keys and required values are
blocking errors; values outside their domain and broken references are errors; odd but possible
values are warnings with their rate. No metadata of a check holds a value of a record.
"""
