"""A DuckDB connection that can read one file and nothing else; no statement can change that."""

from __future__ import annotations

import duckdb


def locked_connection(file: str, memory_limit: str, threads: int) -> duckdb.DuckDBPyConnection:
    """Open a file: read-only, no access to anything outside, no extensions, configuration locked, in UTC.

    Args:
        memory_limit: as in `512MB`; what needs more fails, it does not spill.
        threads: of the engine. Every open of a file in one process must name the same limits.
    """
    connection = duckdb.connect(
        file,
        read_only=True,
        config={
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": "",
            "max_temp_directory_size": "0B",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_unsigned_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
        },
    )
    # A second connection of this process finds the file locked down already.
    ((is_locked,),) = connection.execute("select current_setting('lock_configuration')").fetchall()
    if not is_locked:
        connection.execute("set global TimeZone = 'UTC'")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
    return connection
