"""Queues, shifts and staffing: golden cases that can be checked by hand, each with the usual wrong answer."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hospital_assets.forecasting import learned, queues, shifts, simulate, staffing
from hospital_assets.settings import Settings, SettingsError, StaffingSettings, load_settings, write_settings
from hospital_assets_tests import textbook
from hospital_assets_tests.helpers import benchmark

# Queues -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("servers", "load", "share"), [(2, 1, 1 / 5), (3, 2, 4 / 19), (5, 3, 0.11005)])
def test_erlang_b(servers: int, load: float, share: float) -> None:
    assert queues.erlang_b(servers, load) == pytest.approx(share, abs=5e-6)


@pytest.mark.parametrize(
    ("servers", "load", "share"), [(1, 0.5, 1 / 2), (2, 1, 1 / 3), (3, 2, 4 / 9), (5, 4, 0.55411), (10, 8, 0.40918)]
)
def test_erlang_c_is_more_than_erlang_b(servers: int, load: float, share: float) -> None:
    assert queues.erlang_c(servers, load) == pytest.approx(share, abs=5e-6)
    # Who waits keeps the servers busy: the share that finds them all so is no Erlang B.
    assert queues.erlang_c(servers, load) > queues.erlang_b(servers, load) + 0.1
    assert queues.erlang_c(servers, servers) == 1


def test_waits_of_three_servers() -> None:
    """Four an hour, 30 minutes each."""
    assert textbook.mean_wait(3, 2, 30) == pytest.approx(40 / 3)
    assert 1 - queues.share_within(3, 2, 30, 15) == pytest.approx(4 / 9 * math.exp(-0.5), abs=1e-9)
    assert 1 - queues.share_within(3, 2, 30, 30) == pytest.approx(4 / 9 * math.exp(-1), abs=1e-9)
    # The mean of those who wait is 30 minutes, not of all.
    assert textbook.mean_wait(3, 2, 30) != pytest.approx(30)
    assert textbook.mean_wait(2, 2, 30) == math.inf


def test_servers_needed_for_a_target() -> None:
    assert queues.servers_needed(2, 30, 15, 0.8) == 4
    assert queues.servers_needed(2, 30, 30, 0.8) == 3
    assert queues.share_within(4, 2, 30, 15) == pytest.approx(0.9360, abs=5e-5)
    assert queues.share_within(3, 2, 30, 15) == pytest.approx(0.7304, abs=5e-5)
    assert queues.share_within(3, 2, 30, 30) == pytest.approx(0.8365, abs=5e-5)
    # As many servers as load would be a queue without end.
    assert queues.share_within(2, 2, 30, 30) == 0
    with pytest.raises(ValueError, match="target"):
        queues.servers_needed(math.inf, 30, 30, 0.8)


def test_patients_who_leave() -> None:
    found = queues.erlang_a(3, 2, 1)
    # As fast to leave as to be treated: the number there is Poisson with the load as its mean.
    assert found.waits == pytest.approx(1 - math.exp(-2) * (1 + 2 + 2), abs=1e-9)
    assert found.waits == pytest.approx(0.32332, abs=5e-6) and found.waits < queues.erlang_c(3, 2)
    patient = queues.erlang_a(3, 2, 0)
    assert (patient.waits, patient.leaves, patient.waiting) == pytest.approx((4 / 9, 0, 8 / 9))
    nearly = queues.erlang_a(3, 2, 1e-6)
    assert (nearly.waits, nearly.waiting) == pytest.approx((4 / 9, 8 / 9), rel=1e-3)


def test_overload_is_bounded_where_patients_leave() -> None:
    found = queues.erlang_a(1, 2, 1)
    assert found.waits == pytest.approx(1 - math.exp(-2)) and found.leaves == pytest.approx(0.56767, abs=5e-6)
    assert queues.erlang_c(1, 2) == 1 and queues.erlang_a(1, 2, 0).waiting == math.inf
    # What is not served leaves: no more than one in two is.
    assert found.leaves > 0.5
    nobody = queues.erlang_a(0, 2, 0.5)
    assert (nobody.waits, nobody.leaves, nobody.waiting) == pytest.approx((1, 1, 4))
    assert queues.erlang_a(2, 0, 0.5) == queues.Impatient(0, 0, 0)


def test_each_further_server_saves_less() -> None:
    waiting = [queues.erlang_a(n, 7.3, 0.05).waiting for n in range(30)]
    gains = -np.diff(waiting)
    assert (gains > 0).all() and (np.diff(gains) < 1e-9).all()


def test_square_root_staffing() -> None:
    assert textbook.halfin_whitt(0.5) == pytest.approx(0.50454, abs=5e-6)
    assert textbook.halfin_whitt(1) == pytest.approx(0.22336, abs=5e-6)
    assert textbook.halfin_whitt_beta(0.2) == pytest.approx(1.0615, abs=5e-5)
    assert textbook.halfin_whitt_beta(0.5) == pytest.approx(0.5061, abs=5e-5)
    servers = math.ceil(25 + textbook.halfin_whitt_beta(0.2) * math.sqrt(25))
    assert servers == 31 and queues.erlang_c(31, 25) == pytest.approx(0.1798, abs=5e-5)
    # The normal quantile of 80 % would be 30 servers, with which one in four waits.
    assert queues.erlang_c(30, 25) == pytest.approx(0.2499, abs=5e-5) and math.ceil(25 + 0.84 * 5) == 30


def test_offered_load_lags_arrivals() -> None:
    arrivals = np.array([6.0, 0, 0, 0])
    load = queues.offered_load(arrivals, queues.presence(np.array([1.0]), 4))
    assert load == pytest.approx([3, 3, 0, 0])
    # Arrivals times the mean stay would have all six there in the first hour.
    assert load[0] != pytest.approx(6)
    steady = queues.offered_load(np.full(48, 4.0), queues.presence(np.array([0.25, 0.75]), 24))
    assert steady[-1] == pytest.approx(2)
    assert queues.presence(np.array([0.4, 5.3, 2.0]), 12).sum() == pytest.approx(7.7 / 3)


def test_a_queue_that_starts_empty_fills_slowly() -> None:
    busy, waiting = textbook.transient(np.full(40, 4.0), [3] * 40, 0.5)
    assert waiting[0] == pytest.approx(0.080, abs=2e-3)
    assert busy[-1] == pytest.approx(4 / 9, abs=1e-3) and waiting[-1] == pytest.approx(0.889, abs=1e-3)
    # The steady state is wrong for the first hour by a factor of ten.
    assert waiting[0] < 0.1 * queues.erlang_a(3, 2, 0).waiting
    leaving = textbook.transient(np.full(30, 4.0), [3] * 30, 0.5, 2.0)[0]
    assert leaving[-1] == pytest.approx(0.32332, abs=1e-4)


def test_nurses_by_ratio_are_rounded_up_once() -> None:
    present, each = (0.4, 2, 6, 3, 1), (1, 2, 4, 4, 4)
    assert queues.nurses_needed(present, each, 2) == 6
    # Rounded up by level it would be 1 + 1 + 2 + 1 + 1.
    assert (
        queues.nurses_needed(present, each, 0) == 4 != sum(math.ceil(n / k) for n, k in zip(present, each, strict=True))
    )
    assert queues.nurses_needed((0.1, 0.2, 0, 0, 0), (0.1, 0.1, 1, 1, 1), 0) == 3


# Shifts -------------------------------------------------------------------------------------------

GAINS = np.array([[5.0, 0.5], [1, 0], [1, 0], [5, 0.5]])
FOUR_HOURS = shifts.Rules(starts=(0, 1, 2, 3), lengths=(2,), least=0, most=2)


def test_shifts_cover_where_they_gain_most() -> None:
    one = shifts.suggested(GAINS, 2, FOUR_HOURS)
    # Over midnight: a week that ends at hour 4 would see no shift that covers 3 and 0.
    assert one.roster == {(3, 2): 1} and one.gain == 10 and one.outcome == "suggested"
    two = shifts.suggested(GAINS, 4, FOUR_HOURS)
    assert two.gain == 12 and two.roster in ({(0, 2): 1, (2, 2): 1}, {(1, 2): 1, (3, 2): 1})
    # Both at the best hour is not twice as good.
    others = {((0, 2), (3, 2)): 11.5, ((2, 2), (3, 2)): 11.5, ((3, 2),): 11, ((0, 2), (1, 2)): 7}
    for places, gain in others.items():
        assert shifts.gain_of({place: 3 - len(places) for place in places}, GAINS) == gain
    assert shifts.hours_of(two.roster) == 4


def test_the_rules_are_kept() -> None:
    hours = np.tile(np.concatenate([np.full(12, 1.0), np.full(12, 6.0)]), 2)
    gains = np.stack([hours, hours / 2, hours / 4], axis=1)
    rules = shifts.Rules(starts=(0, 6, 12, 18), lengths=(6, 8), least=1, most=3)
    free = shifts.suggested(gains, 80, rules)
    on = shifts.coverage(free.roster, 48)
    assert on.min() >= 1 and on.max() <= 3 and shifts.hours_of(free.roster) <= 80
    assert on[:12].sum() < on[12:24].sum()
    few = shifts.suggested(gains, 80, replace(rules, distinct_starts=2, lengths=(12,)))
    assert len({start % 24 for start, _ in few.roster}) == 2 and shifts.coverage(few.roster, 48).min() >= 1
    # Four doctors who rest eleven hours: who worked six hours is not there for the next 17.
    rest = shifts.suggested(gains, 80, replace(rules, rest_hours=11, doctors=4))
    assert shifts.coverage(rest.roster, 48, rest=11).max() <= 4
    assert shifts.coverage(free.roster, 48, rest=11).max() > 4
    assert shifts.suggested(gains, 20, rules) == shifts.Suggestion({}, "infeasible", 0)


def test_what_gains_nothing_is_not_moved() -> None:
    gains = np.tile([[1.0, 0.1]], (24, 1))
    rules = shifts.Rules(starts=(0, 4, 8, 12, 16, 20), lengths=(8,), least=1, most=2)
    present = {(4, 8): 1, (12, 8): 1, (20, 8): 1}
    found = shifts.suggested(gains, 24, rules, present)
    assert found.roster == present and shifts.hours_moved(present, found.roster, 24) == 0
    # A shift that the rules no longer allow to plan may stay.
    odd = {(3, 7): 1, (10, 9): 1, (19, 8): 1}
    assert shifts.suggested(gains, 24, rules, odd).roster == odd
    assert shifts.hours_moved(present, {(0, 8): 1, (12, 8): 1, (20, 8): 1}, 24) == 4


def test_without_the_solver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(shifts.SolverMissingError, match=re.escape("pip install 'hospital-assets[staffing]'")):
        shifts.suggested(GAINS, 2, FOUR_HOURS)


# Simulation ---------------------------------------------------------------------------------------


def care(places: int = 1, leaving: float = 0.0, treatment: tuple[float, ...] = (0.5,)) -> simulate.Care:
    """One kind of patient, of level 3, triaged at once."""
    third = np.array([0.0, 0, 1, 0, 0])
    return simulate.Care(
        third, (np.array(treatment),) * 5, leaving * third, np.zeros(5), places, np.array([2, 10, 30, 60, 120]) / 60
    )


def patients(*rows: tuple[float, int, float, float]) -> simulate.Patients:
    """Arrival, level 1 to 5, treatment, patience."""
    at, level, treatment, patience = (np.array(values) for values in zip(*rows, strict=True))
    return simulate.Patients(at, at, level - 1, treatment, patience)


def test_who_is_seen_when_by_hand() -> None:
    came = patients((0, 3, 2, 9), (0.5, 4, 1, 9), (1, 2, 1, 9), (1.5, 3, 1, 0.5), (1.6, 1, 1, 9))
    # One doctor with one place: level 1 at once, level 2 before level 4 who came first; one has left by 2.
    assert simulate.waits(came, [(0, 9)], 1) == pytest.approx([0, 3.1, 1.6, math.nan, 0], nan_ok=True)
    assert simulate.waits(came, [(0, 9)], 2) == pytest.approx([0, 0, 0.5, math.nan, 0], nan_ok=True)
    # Who is on shift no longer takes nobody, but finishes; the next doctor begins with free places.
    assert simulate.waits(patients((0, 3, 5, 9), (1, 3, 1, 9)), [(0, 1), (2, 9)], 1) == pytest.approx([0, 1])
    assert np.isnan(simulate.waits(came, [], 1)).all()


def test_the_simulated_queue_is_the_one_of_theory() -> None:
    """Four an hour, three places, half an hour each: a mean wait of 13.3 minutes."""
    rng = np.random.default_rng(1)
    exponential = tuple(-np.log(1 - (np.arange(4_000) + 0.5) / 4_000) * 0.5)
    rates = np.full(24 * 400, 4.0)
    one = care(3, treatment=exponential)
    came = simulate.drawn(rng, rates, one)
    waited = simulate.waits(came, [(0, len(rates))], 3)
    found = simulate.measured(came, waited, one, 24, len(rates))
    assert found[0] == pytest.approx(40 / 3, rel=0.08) and found[2] == 0
    assert found[3] == pytest.approx(83.65, abs=1.5)
    # As fast to leave as to be treated: see Erlang A.
    hasty = care(3, leaving=2.0, treatment=exponential)
    came = simulate.drawn(rng, rates, hasty)
    left = simulate.measured(came, simulate.waits(came, [(0, len(rates))], 3), hasty, 24, len(rates))
    assert left[2] / 100 == pytest.approx(queues.erlang_a(3, 2, 1).leaves, abs=0.01)


def test_replicates_are_the_same_patients_for_every_roster() -> None:
    week = simulate.Week(np.full(8 * 24, 2.0), care(2, 0.1, (0.5, 1.0)), 0.02, [(-24, 0)], 6, 5)
    thin = [(day * 24.0, day * 24.0 + 24) for day in range(7)]
    thick = sorted(thin * 2)
    first, again = week.results(thin), week.results(thin)
    assert (first == again).all() and (week.results(thick)[:, 0] < first[:, 0]).all()
    more = replace(week, replicates=8).results(thin)
    assert more[:6] == pytest.approx(first) and more.shape == (8, len(simulate.MEASURES))
    assert not (replace(week, seed=6).results(thin) == first).all()


def test_shifts_are_planned_in_whole_hours_and_count_as_they_were() -> None:
    handover = [(0, 8.5), (8, 16.5), (16, 24.5)]
    assert simulate.rounded(handover, 24) == {(0, 8): 1, (8, 8): 1, (16, 8): 1} and simulate.hours_on(handover) == 25.5
    # Who takes over at half past does so in whole hours, too; a night goes on into the first morning.
    halves = [(7.5, 15.5), (15.5, 23.5), (15.5, 23.5), (23.5, 31.5)]
    assert simulate.rounded(halves, 24) == {(7, 8): 1, (15, 8): 2, (23, 8): 1} and simulate.hours_on(halves) == 32
    assert simulate.rounded([(23.9, 24.1), (2, 40)], 24) == {(0, 1): 1, (2, 24): 1}


def test_who_waits_when_the_week_ends_is_seen_then() -> None:
    """No shift is on at the end of Sunday: it is no reason to say that who waits then is never seen."""
    days = [(begin, begin + 8.0) for begin in range(0, 168, 8)]
    week = simulate.Week(np.full(8 * 24, 2.2), care(2, treatment=(0.5, 1.0)), 0.0, [(-8, 0)], 6, 5)
    assert (week.results(days)[:, simulate.MEASURES.index("unseen_pct")] == 0).all()
    found = simulate.around([(-8, 0)], [(0, 8), (23.5, 32), (160, 168)], 168)
    assert found == [(16, 24), (24, 32), (47.5, 56), (184, 192), (192, 200), (215.5, 224)]


# Learned from visits ------------------------------------------------------------------------------


def test_patience_is_over_all_who_waited() -> None:
    assert learned.leaving_rate(3, 50) == pytest.approx(0.06)
    # Over the leavers alone, who waited 5 of the 50 hours, patience would be ten times too short.
    assert learned.leaving_rate(3, 5) == pytest.approx(0.6) and learned.leaving_rate(0, 0) == 0


def test_care_is_learned_from_the_queue_it_makes() -> None:
    """Five places a doctor, leaving at .2 an hour: recovered from the visits that a simulated queue makes."""
    rng = np.random.default_rng(3)
    shares, leaving = np.array([0.02, 0.15, 0.43, 0.3, 0.1]), np.array([0.0, 0.2, 0.2, 0.2, 0.2])
    treatments = tuple(rng.gamma(4, mean / 4, 400) for mean in (3.0, 2.5, 2.2, 1.2, 0.8))
    true = simulate.Care(shares, treatments, leaving, np.full(5, 0.1), 5, np.array([2, 10, 30, 60, 120]) / 60)
    days = 40
    came = simulate.drawn(rng, np.full(24 * days, 5.0), true)
    on = [(8.0 * n, 8.0 * n + 8) for n in range(3 * days) for _ in range(2)]
    waited = simulate.waits(came, on, 5)
    provider, unseen = came.arrival + waited, np.isnan(waited)
    gone = np.where(unseen, came.arrival + came.patience, provider + came.treatment)
    seen = learned.Visits(came.arrival, came.triage, provider, provider + came.treatment, gone, came.level + 1, unseen)
    begin, end = (np.array(values) for values in zip(*on, strict=True))
    assert learned.places_per_doctor(seen, begin, end) == 5
    found = learned.care_of(seen, 5, true.targets)
    assert found is not None
    assert found.shares == pytest.approx(shares, abs=0.02) and found.to_triage == pytest.approx(0.1, abs=0.02)
    assert found.leaving[2] == pytest.approx(0.2, rel=0.15) and found.leaving[0] == 0
    # The median over moments with a queue is no higher than the places: leaving doctors finish.
    assert found.stays.mean() == pytest.approx(
        sum(s * t.mean() for s, t in zip(shares, treatments, strict=True)), rel=0.05
    )
    stays = learned.stays_by_level(seen)
    assert stays[2].mean() > treatments[2].mean()


def test_who_is_still_there_has_waited_and_been_treated_so_long() -> None:
    """At hour 12: one has waited for six hours, one is in treatment for three, one for nine, one left, one was seen."""
    nan = math.nan
    provider, gone = np.array([nan, 9, 3, nan, 7]), np.array([nan, nan, nan, 8, 11])
    arrival = np.array([6.0, 8, 2, 5, 6])
    unseen = np.array([False, False, False, True, False])
    visits = learned.Visits(arrival, arrival, provider, gone, gone, np.full(5, 3), unseen)
    hours = np.arange(1.0, 7)
    drawn = [
        learned.came(visits, care(leaving=0.06, treatment=tuple(hours)), 0, 12, np.random.default_rng(seed))
        for seed in range(200)
    ]
    # By arrival: in treatment for nine hours, left, waiting, seen (whose patience is longer than the hour), for three.
    nine, left, waiting, seen, three = np.stack([one.treatment for one in drawn], axis=1)
    assert set(three) == {4, 5, 6} and (seen == 4).all()
    # Nobody was ever treated for nine hours: it is not known to be still so.
    assert set(nine) == set(left) == set(waiting) == set(hours)
    patience = np.stack([one.patience for one in drawn], axis=1)
    assert patience[2].min() > 6 and patience[2].mean() == pytest.approx(6 + 1 / 0.06, rel=0.2)
    assert (patience[1] == 3).all() and patience[3].min() > 1


def test_too_little_teaches_nothing() -> None:
    few = learned.Visits(*(np.arange(5.0) + n for n in range(5)), np.full(5, 3), np.zeros(5, dtype=bool))
    assert learned.care_of(few, 5, np.ones(5)) is None
    assert learned.places_per_doctor(few, np.array([0.0]), np.array([9.0])) is None


# A department's week ------------------------------------------------------------------------------


def department(**stated: object) -> staffing.Department:
    """Ten weeks of 72 a day, most of whom come by day; three shifts of eight hours with two doctors each."""
    shape = np.where((np.arange(24) >= 9) & (np.arange(24) < 21), 5.0, 1.0)
    history = np.tile(shape, (70, 1))
    history[-7::-7] *= 1.25
    day_means = history[-7:].sum(axis=1)
    present = {(24 * day + clock, 8): 2 for day in range(7) for clock in (7, 15, 23)}
    rules = shifts.Rules(starts=tuple(range(24)), lengths=(8,), least=1, most=5)
    values = {
        "history": history,
        "day_means": day_means,
        "day_dispersion": 0.01,
        "care": care(5, 0.05, (1.5, 2.0, 2.5)),
        "worked": simulate.placed(present),
        "rules": rules,
        "budget": shifts.hours_of(present),
        "target": staffing.Target(0.8, 0.5),
        "seed": 3,
    }
    return staffing.Department(**(values | stated))  # type: ignore[arg-type]


def test_days_are_spread_over_their_hours() -> None:
    history = department().history
    rates = staffing.spread_over_hours(np.array([100.0, 80, 80, 80, 80, 80, 0]), history)
    assert rates.sum(axis=1) == pytest.approx([100, 80, 80, 80, 80, 80, 0])
    assert rates[1, 12] / rates[1, 3] == pytest.approx(5, rel=0.01)
    assert staffing.weekday_means(history) == pytest.approx([90, 72, 72, 72, 72, 72, 72])
    gap = history.copy()
    gap[-7::-7] = math.nan
    assert staffing.weekday_means(gap)[1] == pytest.approx(72)
    assert staffing.spread_over_hours(np.array([90.0]), gap).sum() == pytest.approx(90)


def test_the_need_covers_the_load_after_the_arrivals() -> None:
    one = department()
    day = one.rates[24:48]
    # Two hours each: the most are there at the end of the busy hours, not in their middle.
    assert one.load[24:48].argmax() > day.argmax() and one.load.sum() == pytest.approx(one.rates.sum() * 2)
    assert (one.needed() * one.care.places > one.planned_load).all() and one.needed().min() >= 1
    assert one.planned_load.mean() == pytest.approx(one.load.mean() * (1 + 0.12816))


def test_a_better_roster_is_suggested_with_the_same_hours() -> None:
    one = department()
    found = staffing.plan(one, replicates=8)
    suggested = found.rosters["suggested"]
    assert found.outcome == "suggested" and shifts.hours_of(suggested) <= one.budget
    assert staffing.mean_wait(found.results["suggested"]) < 0.7 * staffing.mean_wait(found.results["present"])
    assert set(found.rosters) == set(found.results) == {"present", "suggested", "by_shape"}
    again = staffing.plan(one, replicates=8)
    assert again.rosters == found.rosters and (again.results["suggested"] == found.results["suggested"]).all()


def test_what_is_no_better_is_not_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    best = staffing.plan(department(), replicates=4).rosters["suggested"]
    found = staffing.plan(department(worked=simulate.placed(best)), replicates=4)
    assert found.outcome == "no_gain" and set(found.rosters) == {"present"}
    # Half an hour later it does worse, and is the same in whole hours: that nothing moves is no suggestion.
    late = [(begin + 0.5, end + 0.5) for begin, end in simulate.placed(best)]
    found = staffing.plan(department(worked=late), replicates=4)
    assert found.outcome == "no_gain" and found.rosters["present"] == best
    assert staffing.plan(department(budget=100), replicates=2).outcome == "infeasible"
    monkeypatch.setitem(sys.modules, "highspy", None)
    missing = staffing.plan(department(), replicates=2)
    assert missing.outcome == "solver_missing" and missing.results["present"].shape == (2, 4)


def test_nurses_follow_who_is_there() -> None:
    rates = np.full(168, 4.0)
    stays = (np.array([]), np.array([1.0]), np.array([2.0]), np.array([1.0]), np.array([]))
    present, needed = staffing.nurses_needed(rates, np.array([0, 0.25, 0.5, 0.25, 0]), stays, (1, 2, 4, 4, 4), 2)
    assert (
        present == pytest.approx(np.full(168, 1 + 4 + 1)) and needed.tolist() == [math.ceil(0.5 + 1 + 0.25) + 2] * 168
    )


# Settings -----------------------------------------------------------------------------------------


def test_rules_of_rosters_are_settings(tmp_path: Path) -> None:
    stated = StaffingSettings(shift_hours=(8, 12), least_doctors=2, hours_a_week=(("H 2", 300), ("H1", 560)))
    write_settings(Settings(tmp_path, staffing=stated))
    assert load_settings(tmp_path).staffing == stated
    write_settings(Settings(tmp_path))
    assert load_settings(tmp_path).staffing == StaffingSettings()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shift_start = [7]", "unknown key 'staffing.shift_start'; known keys: shift_starts, "),
        ("shift_starts = [7, 24]", "'staffing.shift_starts' must be a list of whole numbers from 0 to 23, as in "),
        ("shift_hours = []", "as in shift_hours = [8, 10]"),
        (
            "least_doctors = true",
            "'staffing.least_doctors' must be a whole number from 0 to 100, as in least_doctors = 1",
        ),
        ("least_doctors = 5\nmost_doctors = 4", "'staffing.least_doctors' is more than 'staffing.most_doctors'"),
        ("hours_a_week = 500", "'staffing.hours_a_week' must be whole numbers by hospital from 1 to 100,000, as in "),
        ("patients_per_nurse = [1, 4]", "'staffing.patients_per_nurse' must have 5 numbers, one a level"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "hospital.toml").write_text(f"[staffing]\n{line}\n")
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_settings(tmp_path)


# The simulator ------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_suggested_rosters_do_better_on_the_patients_that_came() -> None:
    """With the same doctors' hours; `python benchmarks/staffing.py` measures nine weeks."""
    found = benchmark("staffing").weeks(2, 1.0, 7)
    before, after = (np.array([getattr(week, name)[0] for week in found]) for name in ("before", "after"))
    # A week whose waits were short anyway may by chance be as short as before.
    assert len(found) == 14 and (after < before + 1.0).all() and (after < before).sum() >= 12
    assert after.mean() < 0.85 * before.mean()
