"""Forecasts, partitioned by the day they were made at, and how good they were.

Belongs here: which stored rows a forecast is made of, and the rows it becomes. How it is made and scored is in
`hospital_assets.forecasting`.
"""
