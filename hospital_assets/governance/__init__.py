"""Who may see what, and the proof of it: one policy, masked publications, audited access, history.

DuckDB has no users and no inner privilege boundary: whoever can open a file can read all of it. So
what a role may not see is never written to the file it gets.

Belongs here: the policy and its masks, pseudonyms, small cells, the leak check, publications with
their versions, the query gateway, the audit, and what becomes of publications elsewhere (PostgreSQL,
Snowflake). Knows contracts and the warehouse; does not say what a table means, and no asset of a layer
knows it.
"""
