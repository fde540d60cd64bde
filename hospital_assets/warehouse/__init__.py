"""Where tables are stored: the DuckDB file, its atomic writes and lazy reads, and the differences between engines.

Belongs here: storage and engine matters (the database, the IO manager, column lineage, the
dialect). Knows contracts, never assets. Does not belong here: what any table means.
"""
