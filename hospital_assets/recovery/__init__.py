"""Back in time, and out of it: snapshots of the warehouse, rebuilds as of a moment, erasing a person.

Each act writes its own entries in the audit. What builds tables is handed in. Does not belong here: versions of
publications, which `publishing` keeps.
"""
