"""Queues: how much work there is by the hour, and how many servers it needs; without simulation.

A server is a place for one patient: a doctor who treats five at once is five servers. `load` is the offered load: the
mean number of servers that would be busy if there were always one free (Erlangs).

Sources: Erlang 1917; Palm 1946 and Garnett, Mandelbaum and Reiman 2002 (impatient customers); Green, Kolesar and Whitt
2007 (staffing by offered load where arrivals vary by the hour).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hospital_assets.forecasting.counts import Array

#: Servers above which no need is sought: a need beyond is a fault of the input.
_MOST_SERVERS = 10_000
#: States of a birth-death chain beyond the load and the servers, in standard deviations of a Poisson count.
_TAIL = 12


def erlang_b(servers: int, load: float) -> float:
    """Share of arrivals that find all servers busy, where nobody waits."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """Share of arrivals that wait, where everybody waits as long as it takes; 1 where the load is too much."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return blocked / (1 - load / servers * (1 - blocked))


def share_within(servers: int, load: float, service: float, target: float) -> float:
    """Share of arrivals that wait no longer than the target, where nobody leaves.

    Args:
        service: mean service time.
        target: in the same unit.
    """
    if load >= servers:
        return 0.0
    return 1 - erlang_c(servers, load) * math.exp(-(servers - load) * target / service)


def servers_needed(load: float, service: float, target: float, share: float) -> int:
    """The fewest servers with which a share of arrivals waits no longer than the target.

    Raises:
        ValueError: no number of servers does, as where the load is infinite.
    """
    for servers in range(max(1, math.floor(min(load, _MOST_SERVERS))), _MOST_SERVERS):
        if share_within(servers, load, service, target) >= share:
            return servers
    raise ValueError("no number of servers meets the target")


@dataclass(frozen=True)
class Impatient:
    """The state of a queue whose patients leave when they have waited too long (Erlang A).

    Attributes:
        waits: share of arrivals that wait.
    """

    waits: float
    leaves: float
    waiting: float


def erlang_a(servers: int, load: float, leaving: float) -> Impatient:
    """A queue whose patients leave at a rate while they wait.

    Args:
        servers: how many; 0 serves nobody.
        load: offered.
        leaving: rate of leaving, as a multiple of the service rate (mean service / mean patience); with 0 nobody
            leaves, and the queue of an overload is infinite.
    """
    if load <= 0:
        return Impatient(float(servers == 0), 0.0, 0.0)
    if leaving <= 0:
        waits = erlang_c(servers, load)
        return Impatient(waits, 0.0, waits * load / (servers - load) if load < servers else math.inf)
    # Beyond the number that leave as fast as they come, states die out like those of a Poisson count.
    most = servers + int(load / leaving + _TAIL * math.sqrt(load / leaving)) + int(load) + 20
    n = np.arange(1, most + 1)
    out = np.minimum(n, servers) + leaving * np.maximum(n - servers, 0)
    logs = np.concatenate([[0.0], np.cumsum(math.log(load) - np.log(out))])
    states = np.exp(logs - logs.max())
    states /= states.sum()
    waiting = float(states[servers:] @ np.arange(most + 1 - servers))
    return Impatient(float(states[servers:].sum()), leaving * waiting / load, waiting)


def presence(stays: Array, hours: int) -> Array:
    """Mean time that somebody who comes during an hour is there in that hour and in those after it.

    Args:
        stays: durations of stays, in hours.
        hours: how many hours to look at.

    Returns:
        hours per arrival, by hours after the one of arrival; they add up to the mean stay if all have gone by then.
    """
    edges = np.arange(hours + 1, dtype=np.float64)[:, None]
    spent = _mean_excess(edges) - _mean_excess(edges - stays[None, :])
    found: Array = np.diff(spent.mean(axis=1))
    return found


def _mean_excess(x: Array) -> Array:
    """Mean of max(0, x - u) over u between 0 and 1."""
    return np.where(x >= 1, x - 0.5, np.maximum(x, 0.0) ** 2 / 2)


def offered_load(arrivals: Array, present: Array) -> Array:
    """Mean number there in each hour: it peaks after arrivals do.

    Args:
        arrivals: mean arrivals by hour.
        present: see `presence`.

    Returns:
        like `arrivals`; who came before the first hour is not counted.
    """
    found: Array = np.convolve(arrivals, present)[: len(arrivals)]
    return found


def nurses_needed(present: Sequence[float], patients_per_nurse: Sequence[float], fixed: int) -> int:
    """Nurses for the patients present, by triage level, and for posts that are always filled.

    Args:
        present: mean number present at levels 1 to 5.
        patients_per_nurse: at the same levels.
        fixed: posts besides: triage, in charge.
    """
    shares = sum(there / each for there, each in zip(present, patients_per_nurse, strict=True))
    # A sum of decimals that is whole is not rounded up to the next.
    return math.ceil(round(shares, 9)) + fixed
