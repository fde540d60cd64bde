"""Files on disk: what landed, whether it can be read, and as which records.

Belongs here: source profiles (declarations of how a source's files map to our subjects),
discovery (the ledger of landed files), readers (files to raw records), and the resource that
brings them to assets. Does not belong here: types, units, rules about values (assets/cleaned);
raw records keep their text as landed.
"""
