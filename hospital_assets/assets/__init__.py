"""The asset graph: one function of frames per table, by layer, one module per subject.

Belongs here: what each table means, as transforms from lazy frames to a lazy frame; they open no
file, no connection, no session, and any of them can be called in a test with small frames. Does
not belong here: columns and types (contracts), storage (warehouse), reading files (landing).
"""

import warnings

import dagster as dg

# `partitions_def` of asset checks is new in dagster 1.13 and says so on every use.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# Single-run backfills are beta; an upstream change shows in the tests of the IO manager.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
