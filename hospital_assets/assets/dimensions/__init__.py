"""Dimensions: the who, where and when that facts point at.

Belongs here: one module per dimension or family, and `members`, what all dimensions share (the
special members, SCD2 validity, the lookup of a version by event time).
"""
