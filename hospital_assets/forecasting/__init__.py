"""Forecasts of arrivals and staffing from them: pure functions on numpy, without Dagster, clocks or files.

- `calendar`: hours that exist on a local day, public holidays.
- `counts`: Poisson and negative binomial distributions of whole numbers.
- `regression`: the ridge Poisson regression on the calendar, its level and its dispersion.
- `slots`: the same hour of the week over eight weeks: the rule to beat, and what ships where it is not beaten.
- `series`: one hospital's arrivals, and what either method forecasts from them at any origin.
- `gate`: which of the two ships.
- `network`: the forecasts of all hospitals and of their sum, each with its method.
- `scores`: errors, skill and calibration of forecasts.
- `queues`: how many servers the work of an hour needs (Erlang B, C and A, square root, offered load).
- `shifts`: which whole shifts are worth most under a hospital's rules (an integer programme; needs `highspy`).
- `simulate`: a simulated department, which tells how a roster would do.

Belongs here: how a forecast or a roster is made and assessed. Does not: reading tables, contracts, pages. numpy,
`holidays` and `highspy` are imported with these modules only; whoever needs one constant of them takes it from `slots`,
which needs none.
"""
