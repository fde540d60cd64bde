"""Everything about Spark, so that a reader who never uses it can skip one folder.

Belongs here: the session, Spark's dialect, the lake that holds its tables and the IO manager over it, column
lineage from its plans, how it reads landed files, the stream of vital signs, a cluster on this machine.
Imported only where `HOSPITAL_ENGINE` asks for it. Does not belong here: what a table means, which is the same
on every engine.
"""
