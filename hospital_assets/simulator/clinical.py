"""Clinical content: diagnoses and procedures that fit the patient, vital signs that fit severity."""

from __future__ import annotations

from importlib import resources

import numpy as np
import polars as pl

from hospital_assets.simulator.people import CHILD, FERTILE

_INTERVAL_SECONDS = np.array([900, 1400, 2200, 2600, 2900])
_MOST_SETS = 12
#: Conditions (ICD-10-CM) that people have in respiratory epidemics.
_OF_EPIDEMICS = r"^(J|U07\.1|B34\.9|R50\.9)"


def _reference(name: str) -> pl.DataFrame:
    file = resources.files("hospital_assets.simulator") / "reference" / name
    return pl.read_csv(file.read_bytes())


def draw_conditions(rng: np.random.Generator, visits: pl.DataFrame, parent: np.ndarray) -> pl.DataFrame:
    """The principal condition of each visit: index into the reference table.

    Fits the person's group, the urgency, the epidemic (if the visit is of one) and, for admitted patients, the ward.
    A return has the condition it returns with.
    """
    table = _reference("conditions.csv").with_row_index("condition")
    weights = table.select("urgent_weight", "middle_weight", "minor_weight").to_numpy().T
    department = table["department"].to_numpy()
    kind = table["group"].to_numpy()
    band = np.array([0, 0, 1, 2, 2])[visits["level"].to_numpy() - 1]
    group = visits["group"].to_numpy()
    epidemic = visits["epidemic"].to_numpy()
    ward = visits["ward"].to_numpy()
    of_epidemics = table["icd10_code"].str.contains(_OF_EPIDEMICS).to_numpy()
    chosen = np.zeros(visits.height, dtype=np.int64)
    draws = rng.random(visits.height)
    for value, names in ((CHILD, ("child",)), (FERTILE, ("adult", "fertile")), (2, ("adult",))):
        for place in range(3):
            for where in (None, *sorted(set(department))):
                mask = (group == value) & (band == place)
                fits = np.isin(kind, names).astype(float) * (weights[place] + 0.02)
                if where is None:
                    mask &= np.array([w is None for w in ward])
                else:
                    mask &= ward == where
                    fits = fits * np.where(department == where, 1.0, 0.12)
                    if where == "Maternity":
                        fits = fits * (kind == "fertile")
                for mine, weight in ((mask & ~epidemic, fits), (mask & epidemic, fits * of_epidemics)):
                    if mine.any():
                        # Nobody comes to a maternity ward with one.
                        weight = weight if weight.any() else fits
                        edges = np.cumsum(weight / weight.sum())
                        chosen[mine] = np.minimum(np.searchsorted(edges, draws[mine]), len(edges) - 1)
    for visit in np.flatnonzero(parent >= 0):
        chosen[visit] = chosen[parent[visit]]
    return visits.with_columns(condition=pl.Series(chosen)).join(
        table.select(
            pl.col("condition").cast(pl.Int64), "icd10_code", "title", "complaint", pl.col("department").alias("routed")
        ),
        on="condition",
        how="left",
        maintain_order="left",
    )


def diagnoses(rng: np.random.Generator, visits: pl.DataFrame) -> pl.DataFrame:
    """Coded diagnoses: visit, sequence, code, title; 1 to 4 a visit, none for those unseen."""
    seen = visits.filter(pl.col("provider") >= 0)
    extra = rng.choice(4, seen.height, p=[0.45, 0.3, 0.17, 0.08])
    secondary = _reference("conditions.csv").filter(
        pl.col("icd10_code").is_in(["I10", "E11.65", "J44.1", "N17.9", "E86.0", "F32.A", "K21.9"])
    )
    index = np.repeat(np.arange(seen.height), extra)
    sequence = np.arange(len(index)) - np.repeat(np.cumsum(extra) - extra, extra) + 2
    # Each further rank takes another code, so that no visit has one twice.
    which = (rng.integers(0, 7, seen.height)[index] + sequence) % secondary.height
    base = pl.DataFrame({"row": index, "sequence": sequence, "which": which})
    more = (
        base.join(seen.select("visit").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64)), on="row")
        .join(secondary.with_row_index("which").with_columns(pl.col("which").cast(pl.Int64)), on="which")
        .select("visit", "sequence", "icd10_code", "title")
    )
    first = seen.select("visit", pl.lit(1, dtype=pl.Int64).alias("sequence"), "icd10_code", "title")
    return pl.concat([first, more]).sort("visit", "sequence")


def procedures(rng: np.random.Generator, visits: pl.DataFrame) -> pl.DataFrame:
    """Coded procedures: visit, performed (UTC second), code, title; for about a third of visits."""
    table = _reference("procedures.csv")
    seen = visits.filter(pl.col("provider") >= 0)
    seen = seen.filter(pl.Series(rng.random(seen.height) < 0.35))
    place = pl.coalesce("ward", pl.lit("Emergency"))
    seen = seen.with_columns(
        place=place,
        performed=pl.col("provider")
        + ((pl.col("decision") - pl.col("provider")) * pl.Series(rng.random(seen.height))).cast(pl.Int64),
        draw=pl.Series(rng.random(seen.height)),
    )
    options = table.group_by("department", maintain_order=True).agg("procedure_code", "title")
    return (
        seen.join(options.rename({"title": "titles"}), left_on="place", right_on="department")
        .with_columns(pick=(pl.col("draw") * pl.col("procedure_code").list.len()).cast(pl.Int64))
        .select(
            "visit",
            "performed",
            pl.col("procedure_code").list.get(pl.col("pick")),
            pl.col("titles").list.get(pl.col("pick")).alias("title"),
        )
        .sort("visit")
    )


def vitals(rng: np.random.Generator, visits: pl.DataFrame, end: int) -> pl.DataFrame:
    """Observation sets: visit, measured (UTC second) and the values; severity fades with time."""
    level = visits["level"].to_numpy()
    start = visits["triage"].to_numpy()
    leaves = visits["left_ed"].to_numpy()
    sets = 1 + np.minimum(_MOST_SETS, np.maximum(0, leaves - start) // _INTERVAL_SECONDS[level - 1])
    on_ward = np.where(visits["admit"].to_numpy(), 2, 0)
    total = sets + on_ward
    index = np.repeat(np.arange(visits.height), total)
    number = np.arange(len(index)) - np.repeat(np.cumsum(total) - total, total)
    in_ed = number < sets[index]
    measured = np.where(
        in_ed,
        start[index] + number * _INTERVAL_SECONDS[level[index] - 1] + rng.integers(0, 240, len(index)),
        leaves[index] + (number - sets[index] + 1) * 6 * 3600 + rng.integers(0, 1800, len(index)),
    )
    keep = measured < end
    index, number, measured = index[keep], number[keep], measured[keep]
    n = len(index)
    base = np.array([2.6, 1.5, 0.45, 0.05, -0.1])[level - 1] + rng.normal(0, 0.55, visits.height)
    severity = np.maximum(base[index] * np.exp(-0.12 * number) + rng.normal(0, 0.25, n), -0.6)
    child = (visits["group"].to_numpy() == CHILD)[index]
    copd = (visits["pre_existing_condition"].to_numpy() == "COPD")[index]
    fever = visits["complaint"].is_in(["fever", "cough and fever"]).to_numpy()[index]
    oxygen = (severity > 1.4) & (rng.random(n) < 0.7)
    spo2 = np.clip(97.6 - 2.1 * np.maximum(severity, 0) - 3.5 * copd + 2.0 * oxygen + rng.normal(0, 1.0, n), 70, 100)
    systolic = np.clip(
        126 - np.where(severity > 1.5, 11.0 * severity, -2.0 * severity) - 22 * child + rng.normal(0, 13, n), 58, 220
    )
    acvpu = np.where(
        (severity > 2.4) & (rng.random(n) < 0.4),
        np.array(["C", "V", "P", "U"])[rng.choice(4, n, p=[0.5, 0.3, 0.14, 0.06])],
        "A",
    )

    def with_gaps(values: np.ndarray, share: float, decimals: int = 0) -> pl.Series:
        rounded = np.round(values, decimals)
        return pl.Series(np.where(rng.random(n) < share, np.nan, rounded)).fill_nan(None)

    return pl.DataFrame(
        {
            "visit": visits["visit"].to_numpy()[index],
            "number": number,
            "measured": measured,
            "heart_rate": with_gaps(np.clip(80 + 12 * severity + 30 * child + rng.normal(0, 9, n), 35, 210), 0.01),
            "respiratory_rate": with_gaps(
                np.clip(15.5 + 3.1 * severity + 8 * child + rng.normal(0, 1.6, n), 6, 60), 0.03
            ),
            "spo2": with_gaps(spo2, 0.02),
            "systolic_bp": with_gaps(systolic, 0.02),
            "diastolic_bp": with_gaps(np.minimum(systolic * 0.62 + rng.normal(0, 5, n), systolic - 12), 0.02),
            "temperature_c": with_gaps(
                np.clip(
                    36.8 + 1.3 * fever * np.exp(-0.1 * number) + 0.12 * severity + rng.normal(0, 0.25, n), 34, 41.5
                ),
                0.08,
                1,
            ),
            "consciousness": acvpu,
            "on_oxygen": oxygen,
            "spo2_scale": np.where(copd, 2, 1),
            "gcs": pl.Series(np.select([acvpu == kind for kind in "ACVP"], [15, 14, 12, 8], 4)),
            "pain": pl.Series(
                np.where(rng.random(n) < 0.25, -1, np.clip(np.round(rng.normal(4, 2.5, n) - 0.4 * number), 0, 10))
            )
            .cast(pl.Int64)
            .replace(-1, None),
        }
    )
