"""Functions a query may call: they compute from what they are given and reach nothing else.

A list of what is allowed, so that what a new version of the engine brings is refused until somebody has
looked at it. Not on it: whatever reads files, settings, the catalog or the environment, runs text as SQL,
writes, or sleeps.
"""

from __future__ import annotations

_AGGREGATES = """
any_value approx_count_distinct approx_quantile arg_max arg_min avg bool_and bool_or corr count count_if
countif count_star covar_pop covar_samp entropy first geomean geometric_mean group_concat histogram kurtosis
last listagg list mad max max_by mean median min min_by mode product quantile quantile_cont quantile_disc
regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy skewness stddev
stddev_pop stddev_samp string_agg sum var_pop var_samp variance array_agg percentile_cont percentile_disc
"""
_WINDOW = """
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
"""
_NUMBERS = """
abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees even exp factorial floor fmod gamma gcd greatest
isfinite isinf isnan lcm least lgamma ln log log10 log2 mod pi pow power radians round sign sin sqrt tan trunc
width_bucket
"""
_TEXT = """
array_to_string bar char_length character_length chr concat concat_ws contains ends_with instr initcap left
length lcase lower lpad ltrim md5 nfc_normalize ord position prefix regexp_extract regexp_extract_all
regexp_full_match regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right rpad rtrim
sha256 split split_part starts_with str_split string_split strip_accents strlen strpos substr substring suffix
translate trim ucase unicode upper like_escape levenshtein jaro_similarity jaro_winkler_similarity
editdist3 hash
"""
_TIME = """
age century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname
dayofmonth dayofweek dayofyear decade epoch epoch_ms epoch_us era extract hour isodow isoyear last_day
make_date make_time make_timestamp make_timestamptz microsecond millennium millisecond minute month monthname
quarter second strftime strptime time_bucket timezone timezone_hour timezone_minute to_days to_hours
to_minutes to_months to_seconds to_timestamp to_weeks to_years try_strptime week weekday weekofyear year
yearweek current_date now today date timestamp
"""
_OTHER = """
coalesce if ifnull nullif iif cast try_cast typeof array_length cardinality element_at flatten generate_series
list_aggregate list_any_value list_apply list_avg list_concat list_contains list_count list_distinct
list_extract list_filter list_max list_min list_position list_reverse list_slice list_sort list_sum
list_transform list_value len map map_entries map_extract map_keys map_values range row struct_extract
struct_pack unnest json_extract json_extract_string json_array_length json_keys json_type json_valid to_json
to_days array_contains array_distinct array_position array_slice
"""

ALLOWED_FUNCTIONS = frozenset(" ".join((_AGGREGATES, _WINDOW, _NUMBERS, _TEXT, _TIME, _OTHER)).split())

_WORDS = """
all and any as between by case cube distinct else except exclude exists filter from group grouping having in
intersect is join lateral like ilike limit materialized not of offset on or order over partition pivot unpivot
qualify recursive rename rollup select sets similar some then to union using values when where window with
within within_group array for include nulls sample tablesample rows range interval decimal numeric varchar
"""
#: Words of the language that may stand before a parenthesis.
WORDS = frozenset(_WORDS.split())
