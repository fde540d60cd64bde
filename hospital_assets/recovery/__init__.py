"""Back in time, and out of it: snapshots of tables, rebuilds as of a moment, erasure of a person.

Does not belong here: versions of publications, which `publishing` keeps.
"""
