"""Files on disk: which have landed, whether they can be read, and their records.

Belongs here: source profiles (declarations of how a source's files map to our subjects),
discovery (the ledger of landed files), readers (files to raw records), and the resource that
brings them to assets. Does not belong here: types, units, rules about values (assets/cleaned);
raw records keep their text as landed.
"""
