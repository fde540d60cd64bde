"""Clinical and statistical definitions, without Dagster: scores, scales, thresholds, limits of chance.

Each stands here once; facts, KPIs, alerts, checks, pages and texts use it. Functions take and give Narwhals
expressions or frames. Does not belong here: tables (`contracts`) and how they are made (`assets`).
"""
