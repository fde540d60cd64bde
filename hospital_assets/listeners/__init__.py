"""Listeners: long-running programs that write incoming messages to the landing folder.

Belongs here: one module per protocol. A listener only writes files to the landing folder: whole ones, through
`landing.deliver`, or, where each message must be answered, files it appends to (`mllp`). Does not belong here:
reading those files (`landing`), or anything about the warehouse. A listener needs no lock on the warehouse and
keeps running during builds.
"""
