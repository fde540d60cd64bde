"""Formulas of queues that the package does not use: what it does use is held against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.queues import erlang_c

_NORMAL = NormalDist()
#: States of a birth-death chain beyond the load and the servers, in standard deviations of a Poisson count.
_TAIL = 12


def mean_wait(servers: int, load: float, service: float) -> float:
    """Mean wait of all arrivals, in the unit of the mean service time; infinite where the load is too much."""
    return erlang_c(servers, load) * service / (servers - load) if load < servers else math.inf


def halfin_whitt(beta: float) -> float:
    """Share that waits with load + beta * sqrt(load) servers, where both are many."""
    if beta <= 0:
        return 1.0
    return 1 / (1 + beta * _NORMAL.cdf(beta) / _NORMAL.pdf(beta))


def halfin_whitt_beta(waits: float) -> float:
    """The beta at which a share waits: staff load + beta * sqrt(load), rounded up."""
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if halfin_whitt(middle) > waits else (low, middle)
    return high


def transient(
    arrivals: Array, servers: Sequence[int], service: float, leaving: float = 0.0, *, steps: int = 60
) -> tuple[Array, Array]:
    """An empty queue's way through hours of changing arrivals and servers (Kolmogorov forward equations).

    Args:
        arrivals: mean arrivals by hour.
        servers: by hour.
        service: mean, in hours; exponential.
        leaving: rate of leaving while waiting, per hour.
        steps: an hour.

    Returns:
        share of time in which all servers are busy, and mean number waiting, each mean of the hour.
    """
    load = float(arrivals.max(initial=0.0)) * service
    size = int(max(servers) + 10 * load + _TAIL * math.sqrt(load) + 50)
    n = np.arange(size)
    now = np.zeros(size)
    now[0] = 1.0
    busy, waiting = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    for hour, (rate, staffed) in enumerate(zip(arrivals, servers, strict=True)):
        out = np.minimum(n, staffed) / service + leaving * np.maximum(n - staffed, 0)
        total = rate + out.max()
        # Uniformised: a step is a Poisson number of jumps of a chain in discrete time.
        weights = _poisson_weights(total / steps)
        up, down = rate / total, out / total
        for _ in range(steps):
            jumped, after = now, weights[0] * now
            for weight in weights[1:]:
                stays = jumped * (1 - up - down)
                stays[1:] += up * jumped[:-1]
                stays[:-1] += down[1:] * jumped[1:]
                stays[-1] += up * jumped[-1]
                jumped = stays
                after = after + weight * jumped
            now = after / after.sum()
            busy[hour] += now[staffed:].sum() / steps
            waiting[hour] += now[staffed:] @ n[: size - staffed] / steps
    return busy, waiting


def _poisson_weights(mean: float) -> list[float]:
    weights = [math.exp(-mean)]
    while sum(weights) < 1 - 1e-12:
        weights.append(weights[-1] * mean / len(weights))
    return weights
