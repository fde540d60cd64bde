"""Where tables live: the DuckDB file, its atomic writes and lazy reads, and what engines differ in.

Belongs here: storage and engine matters (the database, the IO manager, column lineage, the
dialect). Knows contracts, never assets. Does not belong here: what any table means.
"""
