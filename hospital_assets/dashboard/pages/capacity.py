"""The Capacity page: occupancy, turnover, crowding, boarding, stays and overstays."""

from __future__ import annotations

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Card,
    Column,
    Drawn,
    Figure,
    Page,
    Slicer,
    against_chance,
    bars,
    control_charts,
    control_figure,
    empty,
    figure,
    line,
    measure_of,
    on,
    series,
)
from hospital_assets.dashboard.mart import Mart, OverTime, Row
from hospital_assets.dashboard.pages import capacity_queries as queries
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages.shared import (
    BASIS,
    NO_MONTH,
    blood_group,
    month_column,
    newest_complete,
    news,
    rate_card,
    share_trends,
)
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.spc import gapless, shown
from hospital_assets.measures import thresholds
from hospital_assets.measures.natural_limits import Better
from hospital_assets.measures.words import in_hours


def capacity(mart: Mart, where: Slice) -> Page:
    """Beds: occupancy, turnover, boarding and stays."""
    occupied = queries.occupancy(mart, where)
    beds = queries.bed_flow(mart, where)
    boarded = f"Boarded over {in_hours(thresholds.LONG_BOARDING_MINUTES)}"
    names = {
        "boarded": (boarded, measure_of("kpi_boarding_daily", boarded)),
        "before_noon": ("Discharged before noon", measure_of("kpi_discharge_before_noon_daily")),
    }
    better: dict[str, Better] = {"boarded": "lower", "before_noon": "higher"}
    rates = {name: shared_queries.rate(mart, where, name) for name in names}
    of_rates = {name: (rates[name].points[name], better[name]) for name in names}
    found = control_charts(mart, where, {"occupancy": (occupied.points["occupancy"], "neither"), **of_rates})
    ignores: tuple[Slicer, ...] = ("department", "triage")
    newest = found["occupancy"].points[-1:] or None
    cards = [
        Card(
            "occupancy",
            "Occupancy",
            number(newest[0].value, 1) if newest else "\u2013",
            "%" if newest else "",
            f"{on(newest[0].day)}, {number(newest[0].n)} beds" if newest else TOO_FEW,
            against_chance(found["occupancy"], is_newest=True),
            measure_of("kpi_occupancy_daily"),
            ("triage",),
        ),
        *(
            rate_card(mart, name, label, rates[name].total, found[name], measure, ignores)
            for name, (label, measure) in names.items()
        ),
        Card(
            "net",
            "In minus out",
            number(beds.total["net"]),
            "patients",
            "sum of the days; above 0 beds fill up",
            measure=measure_of("kpi_department_flow_daily"),
            ignores=("triage",),
        ),
    ]
    figures = [
        control_figure(
            "occupancy-trend",
            "Occupancy",
            found["occupancy"],
            unit="%",
            span=8,
            measure=measure_of("kpi_occupancy_daily"),
            ignores=("triage",),
            noun="occupancy",
            note="Occupied bed-minutes as a share of those offered; n is beds, summed over the days.",
        ),
        _crowding(mart, where),
        _wards(mart, where),
        _census(mart, where),
        _in_and_out(beds, where),
        *share_trends({"before_noon": names["before_noon"]}, found, ignores),
        _boarding(mart, where),
        _stays(mart, where),
        _overstays(mart, where),
        _blood_mix(mart, where),
    ]
    told = {"occupancy": "Occupancy"} | {name: label for name, (label, _) in names.items()}
    return Page(news(found, told), cards, figures, BASIS)


def _wards(mart: Mart, where: Slice) -> Figure:
    rows = queries.occupancy_now(mart, where)
    measure = measure_of("kpi_occupancy_daily")
    if not rows:
        return empty("wards", "Departments", "No department with known beds in this slice", 12, measure)
    most = max([*(r["peak_pct"] or 0 for r in rows), 100.0])
    limit, day = number(thresholds.FULL_PCT), rows[0]["service_date"]
    full = [r for r in rows if (r["time_weighted_pct"] or 0) > thresholds.FULL_PCT]

    def occupied(row: Row) -> Drawn:
        pct = row["time_weighted_pct"] or 0
        style = "full" if pct > thresholds.FULL_PCT else ""
        return Drawn(charts.bar(pct / most, style, target=thresholds.FULL_PCT / most))

    return figure(
        "wards",
        f"{len(full)} of {len(rows)} departments over {limit} % on {on(day)}",
        f"Time-weighted occupancy, bar to {number(most)} %; mark: {limit} %",
        sorted(rows, key=lambda r: -(r["time_weighted_pct"] or 0))[:20],
        Column("Hospital", of=lambda r: mart.known.hospitals.get(r["hospital_id"], r["hospital_id"])),
        Column("Department", of="department_name"),
        Column("", of=occupied, is_wide=True),
        Column("%", 1, "time_weighted_pct"),
        Column("Beds", 0, "bed_capacity"),
        Column("At midnight", 0, "midnight_patients_count"),
        Column("Peak", 0, "peak_patients_count"),
        Column("Peak %", 0, "peak_pct"),
        span=12,
        measure=measure,
        n=sum(r["bed_capacity"] for r in rows),
        ignores=("triage",),
        note="The twenty fullest; n is beds." if len(rows) > 20 else "n is beds.",
    )


def _census(mart: Mart, where: Slice) -> Figure:
    rows = queries.occupancy_by_hour(mart, where)
    measure = measure_of("fact_bed_occupancy")
    if len(rows) < 2:
        return empty("census", "Patients by hour", "No hourly census in this slice", 12, measure)
    peak = max(rows, key=lambda r: r["patients_count"])
    return figure(
        "census",
        f"Most patients at once: {number(peak['patients_count'])}, {peak['hour_local']:%a %H:%M}",
        "Patients at the start of each local hour of the last seven days, and staffed beds",
        rows,
        Column("Hour", of=lambda r: f"{r['hour_local']:%Y-%m-%d %H:%M}"),
        Column("Patients", 0, "patients_count"),
        Column("Staffed beds", 0, "beds"),
        kind="series",
        spec=series(
            [r["hour_local"].isoformat(timespec="minutes") for r in rows],
            [
                line("beds", [r["beds"] for r in rows], "step"),
                line("patients", [r["patients_count"] for r in rows], "actual"),
            ],
            unit="patients",
            digits=0,
            zero=True,
        ),
        span=12,
        measure=measure,
        ignores=("triage",),
        height=230,
    )


def _crowding(mart: Mart, where: Slice) -> Figure:
    rows = queries.crowding_by_hour(mart, where)
    measure = measure_of("kpi_crowding_hourly")
    known = [r for r in rows if r["median"] is not None]
    if not known:
        return empty("crowding", "Crowding", "No NEDOCS in this slice", 4, measure)
    worst = max(known, key=lambda r: r["overcrowded_pct"])
    return figure(
        "crowding",
        f"Overcrowded most often: {worst['hospital_id']}, {percentage(worst['overcrowded_pct'], 100)} % of hours"
        if worst["overcrowded_pct"]
        else "Crowding: never overcrowded",
        "NEDOCS at the start of each hour, in whole points: median, worst, share of hours over 100",
        rows,
        Column("Hospital", of="hospital_id"),
        Column("Median", 0, "median"),
        Column("Worst", 0, "worst"),
        bars(lambda r: (r["overcrowded_pct"] or 0) / 100),
        Column("Over 100 %", 1, "overcrowded_pct"),
        span=4,
        measure=measure,
        n=sum(r["hours_count"] for r in rows),
        ignores=("department", "triage"),
        note="n is hours.",
    )


def _in_and_out(beds: OverTime, where: Slice) -> Figure:
    measure = measure_of("kpi_department_flow_daily")
    inflow, outflow = (gapless(shown(beds.points[name], where), where.grain) for name in ("inflow", "outflow"))
    known = [(day, came, left) for (day, came), (_, left) in zip(inflow, outflow, strict=True) if came and left]
    if len(known) < 2:
        return empty("net-trend", "In and out", "No moves in this slice", 6, measure)
    net = beds.total["net"] or 0
    each = "by day" if where.grain == "day" else f"a day, by {where.grain}"
    more = f"{number(abs(net))} {'more came than left' if net > 0 else 'more left than came'}"
    return Figure(
        "net-trend",
        f"In and out: {more if net else 'as many came as left'}",
        f"Patients who entered and left {each}; the emergency department only if it is selected",
        "series",
        (Column(where.grain.capitalize()), Column("In", 0), Column("Out", 0), Column("Net", 0)),
        [[day.isoformat(), came.value, left.value, came.value - left.value] for day, came, left in known],
        series(
            [day.isoformat() for day, _ in inflow],
            [
                line("out", [point.value if point else None for _, point in outflow], "light"),
                line("in", [point.value if point else None for _, point in inflow], "actual"),
            ],
            unit="patients",
            digits=0,
            zero=True,
        ),
        6,
        measure,
        beds.total["inflow"],
        ("triage",),
        height=210,
    )


def _boarding(mart: Mart, where: Slice) -> Figure:
    rows = queries.boarding_by_destination(mart, where)
    measure = measure_of("kpi_boarding_daily")
    known = [r for r in rows if (r["denominator_count"] or 0) >= mart.few and r["average_minutes"] is not None]
    if not known:
        return empty("boarding", "Waiting for a bed", TOO_FEW, 6, measure)
    longest = max(known, key=lambda r: r["average_minutes"])
    return figure(
        "boarding",
        f"Longest wait for a bed: {longest['destination_department']}, {number(longest['average_minutes'])} min",
        "Average minutes from decision to departure, by the department admitted to",
        known,
        Column("Admitted to", of="destination_department"),
        bars(lambda r: r["average_minutes"] / longest["average_minutes"]),
        Column("Average min", 0, "average_minutes"),
        Column(f"Over {thresholds.LONG_BOARDING_MINUTES / 60:g} h", 0, "over_4_hours_count"),
        Column(f"Over {thresholds.TWELVE_HOUR_MINUTES / 60:g} h", 0, "over_12_hours_count"),
        Column("n", 0, "denominator_count"),
        measure=measure,
        n=sum(r["denominator_count"] for r in known),
        ignores=("department", "triage"),
    )


def _stays(mart: Mart, where: Slice) -> Figure:
    rows = queries.stays_by_month(mart, where)
    measure = measure_of("kpi_length_of_stay")
    known = [r for r in rows if (r["denominator_count"] or 0) >= mart.few]
    if not known:
        return empty("stays", "Length of stay", TOO_FEW, 6, measure)
    inpatient = [r for r in known if r["stay_class"] == "inpatient" and r["los_hours_median"] is not None]
    newest = newest_complete(mart, inpatient)
    title = (
        f"Length of stay: inpatients {number(newest['los_hours_median'], 1)} h in the middle, "
        f"{newest['period_month']:%B}"
        if newest
        else f"Length of stay: {NO_MONTH}"
    )
    return figure(
        "stays",
        title,
        "By month of discharge and class of stay",
        known,
        Column("Class", of="stay_class"),
        month_column(mart),
        Column("Median h", 1, "los_hours_median"),
        Column("Average h", 1, "los_hours_average"),
        Column("Calendar days", 2, "los_hcup_days_average"),
        Column("n", 0, "denominator_count"),
        Column("Open", 0, "excluded_open_count"),
        measure=measure,
        n=sum(r["denominator_count"] for r in known),
        ignores=("department", "triage"),
        note="Stays that began near the end and are long are still open, so the last month looks shorter than it is.",
    )


def _overstays(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in queries.overstays(mart, where) if (r["denominator_count"] or 0) >= mart.few]
    measure = measure_of("kpi_overstays")
    if not rows:
        return empty("overstays", "Overstays", TOO_FEW, 6, measure)
    n = sum(r["denominator_count"] for r in rows)
    count = sum(r["numerator_count"] or 0 for r in rows)
    return figure(
        "overstays",
        f"Overstays: {percentage(count, n)} % stay too long",
        "Stays by the department in which they ended or are now",
        rows,
        Column("Department", of="department_name"),
        bars(lambda r: (r["value_pct"] or 0) / 100),
        Column("%", 1, "value_pct"),
        Column("Too long", 0, "numerator_count"),
        Column("Still there", 0, "open_numerator_count"),
        Column("n", 0, "denominator_count"),
        measure=measure,
        n=n,
        ignores=("period", "department", "triage"),
    )


def _blood_mix(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in shared_queries.blood_groups(mart, where) if r["share_pct"] is not None]
    measure = measure_of("kpi_blood_groups")
    if not rows:
        return empty("blood-mix", "Blood groups of patients", TOO_FEW, 6, measure)
    order = {"O-": 0, "O+": 1, "A-": 2, "A+": 3, "B-": 4, "B+": 5, "AB-": 6, "AB+": 7}
    rows.sort(key=lambda r: order.get(r["blood_group"], 9))
    most = max(max(r["share_pct"], r["reference_share_pct"] or 0) for r in rows)
    return figure(
        "blood-mix",
        "Blood groups compared with the US population",
        "Percent of patients with a known group; mark: US reference",
        rows,
        Column("Group", of=lambda r: blood_group(r["blood_group"])),
        Column(
            "",
            of=lambda r: Drawn(charts.bar(r["share_pct"] / most, target=(r["reference_share_pct"] or 0) / most)),
            is_wide=True,
        ),
        Column("%", 1, "share_pct"),
        Column("US %", 1, "reference_share_pct"),
        Column("Patients", 0, "patient_count"),
        measure=measure,
        n=rows[0]["known_patient_count"],
        ignores=("period", "department", "triage"),
        note="Stock is not in the data, so days of cover cannot be shown.",
    )
