"""Publications outside our own files: PostgreSQL and Snowflake."""
