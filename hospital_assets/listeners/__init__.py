"""Listeners: long-running programs that bring what is sent to us into the landing folder.

Belongs here: one module per protocol; each ends in files in the landing folder, landed whole by
`landing.deliver` or, where each message must be answered, appended to (`mllp`), and in nothing else.
Does not: reading those files (`landing`), or anything about the warehouse. A listener needs no lock
on it and goes on while builds run.
"""
