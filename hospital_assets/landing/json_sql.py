"""The SQL that takes a line of JSON apart as a profile declares it. Runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hospital_assets.landing.clocks import DAY, MIDNIGHT, MINUTES, NO_DAY, SUM
from hospital_assets.landing.formats import normaliser
from hospital_assets.landing.profile import (
    ELEMENT,
    JOINED,
    MEASURED,
    DateAndTime,
    Event,
    LookedAt,
    Observations,
    Rest,
    Subject,
    Sum,
)
from hospital_assets.landing.records import problem_sql
from hospital_assets.warehouse.dialect import literal, quoted


class _Paths:
    """Texts at JSON paths, all found in one go: the text of a record is parsed once."""

    def __init__(self, source: str, found: str) -> None:
        self._source, self._found = source, found
        self._places: dict[str, int] = {}
        self._picked: dict[str, int] = {}

    def __getitem__(self, path: str) -> str:
        if _STEP.search(path):
            place = self._picked.setdefault(path, len(self._picked) + 1)
            return f"{self._found}_picked[{place}]"
        place = self._places.setdefault(path, len(self._places) + 1)
        return f"{self._found}[{place}]"

    def __len__(self) -> int:
        return len(self._places) + len(self._picked)

    def sql(self) -> str:
        listed = ", ".join(literal(path) for path in self._places)
        plain = f"json_extract_string({self._source}, [{listed}])" if listed else "[]"
        picked = ", ".join(_text_at(self._source, path) for path in self._picked)
        return f"cast({plain} as varchar[]) as {self._found}, cast([{picked}] as varchar[]) as {self._found}_picked"


#: `[key=value]` or `[key!=value]` in a path; the key may be a path itself, and `|` stands between several values.
_PICK = r"\[(?P<key>[A-Za-z_@][^\]=!]*(?:\[(?:\d+|\*)\][^\]=!]*)*)(?P<sign>!?=)(?P<value>[^\]]*)\]"
#: What a path does with the elements of a list: it picks some, or puts them in the order of a clock: `[by key]`.
_STEP = re.compile(rf"{_PICK}|\[by (?P<clock>[^\]=!]+)\]")


def _elements_at(source: str, path: str, depth: int = 0) -> str:
    """SQL of the list of JSON values at a path: all elements of a list, those picked, or one value."""
    step = _STEP.search(path)
    if step is None:
        return f"json_extract({source}, {literal(path if '[*]' in path else f'{path}[*]')})"
    element, rest = f"e{depth}", path[step.start() :]
    if step.start() == 1:  # the record itself, which is no list
        found = f"[cast({source} as json)]"
    else:
        found = f"json_extract({source}, {literal(path[: step.start()] + '[*]')})"
    while step := _STEP.match(rest):  # each of what the one before has left
        if step["clock"]:
            found = _in_order(found, element, step["clock"])
        else:
            found = f"list_filter({found}, lambda {element}: {_fits(element, step)})"
        rest = rest[step.end() :]
    if rest.startswith("["):  # the n-th of them
        place, _, rest = rest[1:].partition("]")
        number = int(place) + (int(place) >= 0)
        found = f"list_slice({found}, {number}, {number})"
    if not rest:
        return found
    inner = f"i{depth}"
    if _STEP.search(rest):
        return f"flatten(list_transform({found}, lambda {inner}: {_elements_at(inner, '$' + rest, depth + 1)}))"
    return (
        f"list_filter(list_transform({found}, lambda {inner}: "
        f"json_extract({inner}, {literal('$' + rest)})), lambda {inner}: {inner} is not null)"
    )


def _in_order(found: str, element: str, clock: str) -> str:
    """SQL of elements by a clock (ISO 8601), those without one first; where it is the same, as they are listed."""
    at = f"try_cast(json_extract_string({element}, {literal('$.' + clock)}) as timestamptz)"
    ranked = (
        f"list_transform({found}, lambda {element}, {element}_n: "
        f"{{'at': coalesce({at}, '-infinity'), 'n': {element}_n, 'of': {element}}})"
    )
    return f"list_transform(list_sort({ranked}), lambda {element}: {element}.of)"


def _fits(element: str, pick: re.Match[str]) -> str:
    """SQL of whether an element holds what a pick says; of a list at its key (`[*]`) any may."""
    values = pick["value"].split("|")
    has = f"json_extract_string({element}, {literal('$.' + pick['key'])})"
    if "[*]" in pick["key"]:
        fits = f"list_has_any(cast({has} as varchar[]), [{', '.join(map(literal, values))}])"
    elif len(values) > 1:
        fits = f"{has} in ({', '.join(map(literal, values))})"
    else:
        fits = f"{has} is not distinct from {literal(values[0])}"
    return f"coalesce({fits}, false)" if pick["sign"] == "=" else f"not coalesce({fits}, false)"


def _text_at(source: str, path: str) -> str:
    """SQL of the text at a path that picks elements: of the first one that has any."""
    return f"json_extract_string({_elements_at(source, path)}[1], '$')"


class _JsonReading:
    """The SQL of a subject's columns over `checked` lines (see `json_query`)."""

    def __init__(self, spec: Subject) -> None:
        self.spec = spec
        self.whole = _Paths("case when is_sound then record end", "found")
        self.element = _Paths("element", "found_each")
        is_normalised = normaliser(spec.format) is not None
        self.line = "source_line"
        self.record = "record"
        self.problem = "case when not is_sound then 'unreadable_line' end"
        if is_normalised:
            line, record, problem = (self.whole[f'$."@{name}"'] for name in ("line", "record", "problem"))
            self.line = f"coalesce(try_cast({line} as bigint), source_line)"
            self.record = f"coalesce({record}, record)"
            self.problem = f"coalesce({self.problem}, {problem})"

    def source(self, name: str) -> str:
        """The text under a source name."""
        if name in ("@line", "@part"):
            return f"cast({self.line if name == '@line' else 'part'} as varchar)"
        if name == "@landed_at":
            return "landed_at"
        if name.startswith("="):
            return literal(name[1:])
        if JOINED in name:
            parts = [self.source(part) for part in name.split(JOINED)]
            return f"case when {parts[-1]} is not null then concat_ws('|', {', '.join(parts)}) end"
        if name.startswith(ELEMENT):
            return self.element["$" + name.removeprefix(ELEMENT)]
        return self.whole[name]

    def column(self, name: str, spec: Subject) -> str:
        """One of our columns."""
        if name in spec.constants:
            return literal(spec.constants[name])
        if isinstance(spec, Rest) and name == "kind":
            kinds = ", ".join(self.source(kind) for kind in spec.kinds)
            return f"concat_ws(' ', {kinds})" if kinds else "cast(null as varchar)"
        if name in spec.derived:
            parts = spec.derived[name]
            if isinstance(parts, Sum):
                return self._sum(parts)
            if isinstance(parts, DateAndTime):
                return self._date_and_time(parts)
            return " || '-' || ".join(
                self.source(part)
                if isinstance(part, str)
                else f"coalesce({', '.join(self.source(name) for name in part)})"
                for part in parts
            )
        if name == "observation_id" and spec.is_set_by_time:
            of_record = f"case when {self.is_day(spec)} then '-' || md5({self.record})[:12] else '' end"
            return f"{self.column('patient_id', spec)} || '-' || {self.column('measured_at', spec)} || {of_record}"
        if name == "payload" and spec.payload:
            return self._payload(
                {
                    vital_sign: (self.source(parameter.column), literal(parameter.unit) if parameter.unit else "null")
                    for vital_sign, parameter in spec.payload.items()
                }
            )
        found = [self.source(source) for source in spec.source_names(name)]
        if not found:
            return "cast(null as varchar)"
        value = found[0] if len(found) == 1 else f"coalesce({', '.join(found)})"
        if name in spec.patterns:
            return f"nullif(regexp_extract({value}, {literal(spec.patterns[name])}, 1), '')"
        return value

    def is_day(self, spec: Subject) -> str:
        """Whether vital signs are dated without a time of day, as `clocks.is_day`."""
        at = self.column("measured_at", spec)
        return f"coalesce(not contains({at}, ':') and regexp_matches({at}, {literal(DAY)}), false)"

    def _stripped(self, name: str) -> str:
        return f"nullif(trim({self.source(name)}), '')"

    def _date_and_time(self, parts: DateAndTime) -> str:
        date = f"regexp_replace({self._stripped(parts.date)}, {literal(MIDNIGHT)}, '')"
        time = f"regexp_replace({self._stripped(parts.time)}, {literal(NO_DAY)}, '')"
        return f"{date} || coalesce(' ' || {time}, '')"

    def _sum(self, parts: Sum) -> str:
        """A clock and minutes from there, as `split_sums` takes them apart."""
        at = self._stripped(parts.at) if isinstance(parts.at, str) else self._date_and_time(parts.at)
        return f"{at} || {literal(SUM)} || {self._stripped(parts.plus_minutes)} || {literal(MINUTES)}"

    @staticmethod
    def _payload(values: Mapping[str, tuple[str, str]]) -> str:
        fields = []
        for name, (value, unit) in values.items():
            nested = f"json_object('value', {value}, 'unit', {unit})"
            whole = f"case when {value} is not null then {nested} end" if name in MEASURED else value
            fields.append(f"{literal(name)}, {whole}")
        return f"cast(json_object({', '.join(fields)}) as varchar)"

    def where(self, conditions: Mapping[str, Sequence[str]]) -> str:
        """Whether a record has one of the values in each."""
        return (
            " and ".join(
                _has_one_of(f"upper(trim({self.source(name)}))", values) for name, values in conditions.items()
            )
            or "true"
        )

    def takes(self, spec: Subject) -> str:
        """Whether a subject takes a record: no row may come of one that it takes, and none else."""
        terms = [f"({self.where(spec.where)})"]
        if spec.observations is not None:
            codes = f"({_listed(tuple(spec.observations.gathered))})"
            code = spec.observations.code
            if code.startswith(ELEMENT):
                path = "$" + code.removeprefix(ELEMENT)
                text = (
                    _text_at("element", path)
                    if _STEP.search(path)
                    else f"json_extract_string(element, {literal(path)})"
                )
                terms.append(
                    f"len(list_filter({self.elements(spec)}, lambda element: upper(trim({text})) in {codes})) > 0"
                )
            else:
                terms.append(f"upper(trim({self.source(code)})) in {codes}")
        elif spec.each:
            terms.append(f"len({self.elements(spec)}) > 0")
        if spec.events:
            terms.append(f"({' or '.join(f'({self.where(e.where)})' for e in spec.events)})")
        return " and ".join(f"coalesce({term}, false)" for term in terms)

    @staticmethod
    def elements(spec: Subject | Event) -> str:
        """The elements that make rows of a record."""
        assert spec.each is not None  # noqa: S101  (only called where there is a list)
        record = "case when is_sound then record end"
        listed = f"coalesce({_elements_at(record, spec.each)}, [])"
        if isinstance(spec, Subject) and spec.is_element_itself:
            return f"list_append({listed}, cast({record} as json))"
        if isinstance(spec, LookedAt):
            return f"list_append({listed}, cast(null as json))"
        return listed

    def made_events(self) -> list[str]:
        """For each declared event, whether a record makes it, as `_made_events` for CSV."""
        made: list[str] = []
        applies: list[str] = []
        for event in self.spec.events:
            here = f"({self.where(event.where)})"
            has_time = f"coalesce(trim({self.source(event.event_at)}) <> '', false)"
            is_first = f"not ({' or '.join(applies) or 'false'})"
            made.append(f"({here} and ({has_time}{'' if event.each else f' or {is_first}'}))")
            applies.append(here)
        return made


class JsonQuery(NamedTuple):
    """SQL from lines of JSON to raw records.

    Attributes:
        lines: the common table expressions before.
        kept: which rows count, and how they are grouped.
        by: what groups them, where they are grouped.
    """

    lines: str
    rows: str
    records: str
    kept: str
    by: str = ""

    @property
    def sql(self) -> str:
        """All of it."""
        return f"{self.lines} select {self.records} from ({self.rows}) {self.kept}"


def json_query(names: Sequence[str], spec: Subject, checked: str) -> JsonQuery:
    """SQL from lines of JSON to a subject's raw records.

    Args:
        checked: SQL of the lines: `source_file`, `_fallback`, `landed_at`, `source_line`, `record`,
            and `is_sound`, whether that is a JSON object.
    """
    reading = _JsonReading(spec)
    if isinstance(spec, Rest):
        taken = " or ".join(f"({reading.takes(taker)})" for taker in spec.takers) or "false"
        wanted = f"({reading.problem}) is not null or not ({taken})"
    elif spec.is_selective:
        wanted = f"({reading.problem}) is null and {reading.takes(spec)}"
    else:
        wanted = "true"

    rows, kept = "select *, 1 as part from parsed", ""
    if spec.each and not isinstance(spec, Rest):
        rows = (
            "select *, unnest(elements) as element, unnest(range(1, len(elements) + 1)) as part "
            f"from (select *, {reading.elements(spec)} as elements from parsed)"
        )
    fields = {name: reading.column(name, spec) for name in names}
    if spec.events:
        made = reading.made_events()
        by_event = [{name: reading.column(name, spec.of_event(event)) for name in names} for event in spec.events]
        for event, of_event in zip(spec.events, by_event, strict=True):
            place = " || '-' || (part // 1000)" if event.each else ""
            of_event["message_id"] = f"{of_event['message_id']} || {literal('-' + event.event_type)}{place}"
        fields = {
            name: "case part % 1000 "
            + " ".join(f"when {n} then {of_event[name]}" for n, of_event in enumerate(by_event, 1))
            + " end"
            for name in names
        }
        cases = " ".join(f"when {part} then {is_made}" for part, is_made in enumerate(made, 1))
        # The events of a list have the place of their element in their part, too.
        elements = " ".join(
            f"when {part} then ({reading.elements(event)})[{event.from_element}:]"
            for part, event in enumerate(spec.events, 1)
            if event.each
        )
        parts = ", ".join(f"({part})" for part in range(1, len(made) + 1))
        rows = f"select * from parsed, (values {parts}) as events(part)"
        if elements:
            rows = (
                "select * exclude (part, elements), unnest(elements) as element, "
                "part + 1000 * unnest(case when is_list then range(1, len(elements) + 1) else [0] end) "
                "as part from (select *, part in "
                f"({', '.join(str(n) for n, event in enumerate(spec.events, 1) if event.each)}) "
                f"as is_list, case part {elements} else [cast(null as json)] end as elements from ({rows}))"
            )
        kept = f"where case part % 1000 {cases} end"
    head = f"source_file, {reading.line} as source_line, cast(part as bigint) as source_part, "
    head += f"{reading.record} as record, _fallback, "
    problem = problem_sql(spec, reading.problem, fields)
    last = f"{head} {problem} as problem, " + ", ".join(f"{sql} as {quoted(name)}" for name, sql in fields.items())
    by = ""
    if spec.observations is not None:
        last, kept, by = _gathered_sql(reading, spec.observations, names, fields)
    if reading.element:
        rows = f"select *, {reading.element.sql()} from ({rows})"
    lines = f"""
        with checked as ({checked}
        ), parsed as (
            select * from (select *, {reading.whole.sql()} from checked) where {wanted}
        )"""
    return JsonQuery(lines, rows, last, kept, by)


def _gathered_sql(
    reading: _JsonReading, long: Observations, names: Sequence[str], fields: Mapping[str, str]
) -> tuple[str, str, str]:
    """What to select, how to group it, and by what: `_gathered` for JSON."""
    place = f"({reading.line} * 1000000 + part)"
    code = f"upper(trim({reading.source(long.code)}))"
    value = f"coalesce({', '.join(reading.source(v) for v in long.values)}, null)"
    signs = " ".join(
        f"when {code} in ({_listed([c for c, n in long.gathered.items() if n == name])}) then {literal(name)}"
        for name in dict.fromkeys(long.gathered.values())
    )
    is_flag = f"{code} in ({_listed(tuple(long.flags))})" if long.flags else "false"
    written = [reading.source(name) for name in long.written]
    observation = {
        "sign": f"case {signs} end",
        "code": code,
        "value": f"case when {is_flag} then cast(try_cast({value} as double) > 0 as varchar) else {value} end",
        "unit": "cast(null as varchar)",
        **{part: reading.source(name) for part, name in long.units.items()},
        "place": f"cast({place} as varchar)",
        "written": f"coalesce({', '.join(written)}, null)" if written else "cast(null as varchar)",
        **{
            part: reading.source(name) if name else "cast(null as varchar)"
            for part, name in (("id", long.id), ("status", long.status), ("comparator", long.comparator))
        },
    }
    listed_values = ", ".join(f"{literal(part)}: {sql}" for part, sql in observation.items())
    payload = f"cast(json_object('observations', to_json(list({{{listed_values}}} order by {place}))) as varchar)"
    selected = {name: payload if name == "payload" else f"arg_min({sql}, {place})" for name, sql in fields.items()}
    listed = (
        # Elements share their record.
        f"string_agg(distinct {reading.record}, ',' order by {reading.record})"
        if reading.spec.each
        else f"string_agg({reading.record}, ',' order by {place})"
    )
    record = (
        f"case when count(distinct {reading.line}) = 1 then any_value({reading.record}) else '[' || {listed} || ']' end"
    )
    known = _listed(tuple(long.gathered))
    # Of a day alone nothing says that two records are of one time.
    own = f"case when {reading.is_day(reading.spec)} then {reading.line} end"
    by = ", ".join(["source_file", "_fallback", *(reading.source(name) for name in long.by), own])
    last = (
        f"source_file, min({reading.line}) as source_line, "
        f"cast(min({place}) % 1000000 as bigint) as source_part, {record} as record, _fallback, "
        "cast(null as varchar) as problem, " + ", ".join(f"{selected[name]} as {quoted(name)}" for name in names)
    )
    return last, f"where {code} in ({known}) group by {by}", by


def _has_one_of(text: str, values: Sequence[str]) -> str:
    """Whether a text in capitals is one of the values, as `_is_among` for CSV."""
    allowed = [value for value in values if not value.startswith("!")]
    denied = [value[1:] for value in values if value.startswith("!")]
    terms = []
    if "*" in allowed:
        terms.append(f"coalesce({text} <> '', false)")
    elif allowed:
        terms.append(f"coalesce({text} in ({_listed(allowed)}), false)")
    if denied:
        terms.append(f"coalesce({text} not in ({_listed(denied)}), true)")
    return f"({' and '.join(terms) or 'true'})"


def _listed(values: Sequence[str]) -> str:
    return ", ".join(literal(value.strip().upper()) for value in values)
