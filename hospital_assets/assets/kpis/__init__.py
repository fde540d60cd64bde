"""KPIs: what a hospital acts on, by the field's definitions, with n and what was left out.

Belongs here: one module per family. Daily tables carry sums and counts and are partitioned; the
others pool them, or go back to the facts where a figure does not add up (medians, distinct
patients). Nothing is ever an average of averages.
"""
