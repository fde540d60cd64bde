"""Facts: what happened, one row per event at the finest grain, pointing at dimensions.

Belongs here: one module per fact, and `news2`, the score that vital signs carry.
"""
