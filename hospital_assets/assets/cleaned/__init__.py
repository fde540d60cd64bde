"""Cleaned tables: raw text read into types, units and UTC, validated by named rules.

Belongs here: one module per subject with its rules and its reading of the landed text, and
`rules`, the few tools they share. A record is either in the cleaned table or in the subject's
quarantine table, never in neither: raw = cleaned + quarantined + duplicates.
"""
