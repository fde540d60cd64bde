"""Backups, snapshots, the mirror and the history of tables, rebuilds as of a moment, and erasing a person.

Each action writes its own entries in the audit. The function that builds tables is passed in. Does not belong here:
versions of publications (`publishing`).
"""
