"""Tools for adding a source: a draft of its profile, a dry run of its files.

Does not belong here: reading files in a run (`landing`).
"""
