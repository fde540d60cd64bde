"""Everything about Spark, so that a reader who never uses it can skip one folder.

Belongs here: the session, Spark's half of the dialect, the lake its tables lie in and the IO manager over
it, column lineage from its plans, its reading of landed files, the stream of vital signs, a cluster on this
machine. Imported only where `HOSPITAL_ENGINE` asks for it. Does not belong here: what a table means, which is
the same on every engine.
"""
