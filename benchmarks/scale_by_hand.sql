-- The work of `scale.py` as one DuckDB script, the way a skilled analyst would write it once.
--
-- It reads the same raw records (views raw_vitals, raw_er_visits, cleaned_hospitals, dim_patient) and
-- makes the same tables: what is sound with its quality codes, what is set aside with its reason, and
-- scored vital signs. It knows the one source these records come from, and no hour that happens twice
-- or never: there is none in a January.

-- Vital signs.
create temp macro number(written) as nullif(try_cast(written as double), 'nan'::double);
create temp table judged_vitals as
with read as (
    select v.* exclude (record, payload),
        json_extract_string(payload, [
            '$.heart_rate.value', '$.respiratory_rate.value', '$.spo2.value', '$.systolic_bp.value',
            '$.diastolic_bp.value', '$.temperature.value', '$.temperature.unit', '$.consciousness',
            '$.on_oxygen', '$.spo2_scale', '$.gcs', '$.pain']) as said,
        h.time_zone
    from raw_vitals v left join (select hospital_id, time_zone from cleaned_hospitals) h on h.hospital_id = trim(v.hospital_id)
), numbers as (
    select service_date, nullif(trim(observation_id), '') as observation_id, source_profile, source_file,
        source_line, source_part, problem, time_zone, nullif(trim(visit_id), '') as visit_id,
        nullif(trim(patient_id), '') as patient_id, nullif(trim(hospital_id), '') as hospital_id,
        nullif(trim(device_id), '') as device_id,
        try_cast(measured_at as timestamptz) as measured_at,
        try_cast(recorded_at as timestamptz) as recorded_at,
        said,
        number(said[1]) as heart_rate, number(said[2]) as respiratory_rate,
        number(said[3]) as spo2, number(said[4]) as systolic,
        number(said[5]) as diastolic, number(said[6]) as temperature,
        upper(trim(said[7])) in ('[DEGF]', 'F', 'DEGF', '°F') as says_fahrenheit,
        upper(trim(said[7])) in ('CEL', 'C', 'DEGC', '°C') as says_celsius,
        number(said[10]) as scale, number(said[11]) as gcs,
        number(said[12]) as pain
    from read
), units as (
    select * replace (
            case when (says_fahrenheit is true and temperature not between 10 and 50)
                    or (says_fahrenheit is not true and temperature between 70 and 120)
                then round((temperature - 32) / 1.8, 1) else temperature end as temperature,
            case when spo2 > 0 and spo2 <= 1 then round(spo2 * 100, 1) else spo2 end as spo2),
        says_fahrenheit is true and temperature not between 10 and 50 as is_fahrenheit,
        says_fahrenheit is not true and temperature between 70 and 120 as is_inferred_fahrenheit,
        says_celsius is not true and temperature between 10 and 50 as is_inferred_celsius,
        spo2 > 0 and spo2 <= 1 as is_fraction
    from numbers
), judged as (
    select service_date, observation_id, source_profile, source_file, source_line, source_part,
        concat_ws(';',
            case when is_fahrenheit then 'fahrenheit_converted' end,
            case when is_inferred_fahrenheit then 'fahrenheit_inferred' end,
            case when is_inferred_celsius then 'celsius_inferred' end,
            case when is_fraction then 'spo2_fraction' end,
            case when diastolic > systolic and diastolic > 0 and diastolic < 300
                and systolic > 0 and systolic < 400 then 'diastolic_above_systolic' end,
            case when (said[1] is not null and heart_rate is null)
                or (said[2] is not null and respiratory_rate is null)
                or (said[3] is not null and spo2 is null)
                or (said[4] is not null and systolic is null)
                or (said[5] is not null and diastolic is null)
                or (said[6] is not null and temperature is null)
                or (said[10] is not null and scale is null)
                or (said[11] is not null and gcs is null) then 'value_unreadable' end,
            case when trim(said[12]) <> '' and (pain between 0 and 10 and floor(pain) = pain) is not true
                then 'pain_not_numeric' end,
            case when not (heart_rate > 0 and heart_rate < 300) then 'heart_rate_out_of_bounds' end,
            case when not (respiratory_rate > 0 and respiratory_rate < 70)
                then 'respiratory_rate_out_of_bounds' end,
            case when not (spo2 > 0 and spo2 < 100.0001) then 'spo2_out_of_bounds' end,
            case when not (systolic > 0 and systolic < 400) then 'systolic_bp_out_of_bounds' end,
            case when not (diastolic > 0 and diastolic < 300) then 'diastolic_bp_out_of_bounds' end,
            case when not (temperature > 9.9999 and temperature < 50.0001)
                then 'temperature_out_of_bounds' end) as quality_codes,
        recorded_at, visit_id, patient_id, hospital_id, device_id, measured_at,
        timezone(time_zone, measured_at) as measured_local,
        case when heart_rate > 0 and heart_rate < 300 then heart_rate end as heart_rate_bpm,
        case when respiratory_rate > 0 and respiratory_rate < 70 then respiratory_rate end
            as respiratory_rate_per_min,
        case when spo2 > 0 and spo2 < 100.0001 then spo2 end as spo2_pct,
        case when systolic > 0 and systolic < 400 then systolic end as systolic_mmhg,
        case when diastolic > 0 and diastolic < 300 then diastolic end as diastolic_mmhg,
        case when temperature > 9.9999 and temperature < 50.0001 then temperature end as temperature_c,
        case upper(trim(said[8]))
            when 'A' then 'A' when 'ALERT' then 'A' when 'C' then 'C' when 'CONFUSED' then 'C'
            when 'CONFUSION' then 'C' when 'NEW CONFUSION' then 'C' when 'V' then 'V'
            when 'VOICE' then 'V' when 'VERBAL' then 'V' when 'P' then 'P' when 'PAIN' then 'P'
            when 'U' then 'U' when 'UNRESPONSIVE' then 'U' end as consciousness,
        case lower(said[9]) when 'true' then true when 'false' then false end as is_on_oxygen,
        case when scale in (1, 2) then scale::bigint end as spo2_scale,
        case when gcs between 3 and 15 then gcs::bigint end as gcs_score,
        case when pain between 0 and 10 and floor(pain) = pain then pain::bigint end as pain_score,
        coalesce(problem, case when observation_id is null then 'observation_id_missing'
            when patient_id is null then 'patient_id_missing'
            when time_zone is null then 'hospital_unknown'
            when measured_at is null then 'measured_at_missing'
            when measured_at > recorded_at + interval 1440 minutes then 'measured_in_future' end) as rule
    from units
)
select * exclude (rule),
    case when rule is not null then rule
        when row_number() over newest_first = 1 then null
        when max(recorded_at) over of_one is not distinct from recorded_at then 'duplicate'
        else 'superseded' end as rule
from judged
window of_one as (partition by service_date, observation_id, rule is null),
    newest_first as (partition by service_date, observation_id, rule is null
        order by recorded_at desc nulls last, source_file desc, source_line desc, source_part desc);

create table vitals as select * exclude (rule) from judged_vitals where rule is null;
create table vitals_aside as
select j.service_date, source_file, source_line, source_part, source_profile, rule,
    case rule
        when 'unreadable_line' then 'The line is not a record of its file''s format.'
        when 'observation_id_missing' then 'An observation set needs an identifier.'
        when 'patient_id_missing' then 'A measurement needs a patient.'
        when 'hospital_unknown' then 'The hospital is not one of the network''s hospitals.'
        when 'measured_at_missing' then 'The time of measurement is missing or unreadable.'
        when 'measured_in_future' then 'The time of measurement is later than its record (by more than its profile allows).'
        when 'duplicate' then 'The same record was landed before.'
        when 'superseded' then 'A newer record of the same thing was landed.' end as reason,
    rule in ('duplicate', 'superseded') as is_duplicate, r.record
from judged_vitals j
    left join (select source_file, source_line, source_part, record from raw_vitals) r
    using (source_file, source_line, source_part)
where rule is not null;
drop table judged_vitals;

-- Visits.
create temp macro clock(written) as coalesce(
    try_cast(trim(written) as timestamp),
    try_strptime(trim(written), ['%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S']));
create temp table judged_visits as
with read as (
    select service_date, nullif(trim(visit_id), '') as visit_id, source_profile, source_file, source_line,
        source_part, problem, h.time_zone, nullif(trim(patient_id), '') as patient_id,
        nullif(trim(v.hospital_id), '') as hospital_id, nullif(trim(department), '') as department,
        nullif(trim(doctor_id), '') as doctor_id, nullif(trim(arrival_mode), '') as landed_mode,
        nullif(trim(disposition), '') as landed_disposition, nullif(trim(chief_complaint), '') as chief_complaint,
        nullif(trim(triage_level), '') as landed_level, try_cast(trim(triage_level) as double) as level,
        timezone(time_zone, clock(v.recorded_at)) as recorded_at,
        timezone(time_zone, clock(arrival_time)) as arrival_at,
        timezone(time_zone, clock(handover_time)) as handover_at,
        timezone(time_zone, clock(triage_time)) as triage_at,
        timezone(time_zone, clock(room_time)) as room_at,
        timezone(time_zone, clock(provider_time)) as provider_at,
        timezone(time_zone, clock(decision_time)) as decision_at,
        timezone(time_zone, clock(departure_time)) as departure_at,
        (trim(handover_time) <> '' and handover_at is null) or (trim(triage_time) <> '' and triage_at is null)
            or (trim(room_time) <> '' and room_at is null) or (trim(provider_time) <> '' and provider_at is null)
            or (trim(decision_time) <> '' and decision_at is null)
            or (trim(departure_time) <> '' and departure_at is null) as is_clock_unreadable
    from raw_er_visits v left join (select hospital_id, time_zone from cleaned_hospitals) h on h.hospital_id = trim(v.hospital_id)
), mapped as (
    select *,
        case upper(department)
            when 'EMERGENCY' then 'Emergency' when 'ER' then 'Emergency' when 'E.R.' then 'Emergency'
            when 'ED' then 'Emergency' when 'A&E' then 'Emergency' when 'EMERG' then 'Emergency'
            when 'EMERGENCY DEPT' then 'Emergency' when 'EMERGENCY DEPT.' then 'Emergency'
            when 'EMERGENCY DEPARTMENT' then 'Emergency' when 'EMERGENCY ROOM' then 'Emergency'
            when 'SURGERY' then 'Surgery' when 'SURG' then 'Surgery' when 'SURG.' then 'Surgery'
            when 'GENERAL SURGERY' then 'Surgery' when 'SURGICAL' then 'Surgery'
            when 'ICU' then 'ICU' when 'I.C.U.' then 'ICU' when 'INTENSIVE CARE' then 'ICU'
            when 'INTENSIVE CARE UNIT' then 'ICU' when 'CRITICAL CARE' then 'ICU'
            when 'PEDIATRICS' then 'Pediatrics' when 'PAEDIATRICS' then 'Pediatrics' when 'PEDS' then 'Pediatrics'
            when 'PEDIATRIC' then 'Pediatrics' when 'CHILDREN' then 'Pediatrics'
            when 'MATERNITY' then 'Maternity' when 'LABOR & DELIVERY' then 'Maternity' when 'L&D' then 'Maternity'
            when 'OBSTETRICS' then 'Maternity' when 'OB' then 'Maternity'
            when 'ONCOLOGY' then 'Oncology' when 'ONC' then 'Oncology' when 'ONC.' then 'Oncology'
            when 'CANCER CENTER' then 'Oncology'
            when 'CARDIOLOGY' then 'Cardiology' when 'CARDIO' then 'Cardiology' when 'CARD.' then 'Cardiology'
            when 'HEART' then 'Cardiology' when 'CARDIAC' then 'Cardiology' end as department_name,
        case upper(landed_mode)
            when 'WALK_IN' then 'walk_in' when 'WALK-IN' then 'walk_in' when 'WALK IN' then 'walk_in'
            when 'AMBULANCE' then 'ambulance' when 'EMS' then 'ambulance' when 'HELICOPTER' then 'helicopter'
            when 'OTHER' then 'other' else 'unknown' end as arrival_mode,
        case upper(landed_disposition)
            when 'LWBS' then 'left_without_being_seen' when 'AMA' then 'against_medical_advice'
            when 'DISCHARGED' then 'home' when 'TRANSFER' then 'transferred' when 'DIED' then 'expired'
            else case when lower(landed_disposition) in ('home', 'admitted', 'transferred',
                'left_without_being_seen', 'against_medical_advice', 'eloped', 'expired', 'observation',
                'facility', 'rehab', 'other') then lower(landed_disposition) end end as disposition,
        case when level in (1, 2, 3, 4, 5) then level::bigint end as triage_level,
        coalesce(problem, case when visit_id is null then 'visit_id_missing'
            when patient_id is null then 'patient_id_missing'
            when time_zone is null then 'hospital_unknown'
            when arrival_at is null then 'arrival_missing'
            when arrival_at > recorded_at + interval 1440 minutes then 'arrival_in_future' end) as rule
    from read
), owned as (
    select service_date, visit_id, source_profile, source_file, source_line, source_part,
        concat_ws(';',
            case when department_name <> department then 'department_mapped' end,
            case when department_name is null and department is not null then 'department_unknown' end,
            case when triage_level is null and landed_level is not null then 'triage_level_invalid' end,
            case when arrival_mode = 'unknown' and lower(landed_mode) <> 'unknown' then 'arrival_mode_unknown' end,
            case when disposition is null and landed_disposition is not null then 'disposition_unknown' end,
            case when is_clock_unreadable then 'clock_unreadable' end,
            case when provider_at < arrival_at and (triage_at is null or provider_at < triage_at)
                then 'provider_before_arrival' end,
            case when departure_at < arrival_at then 'departure_before_arrival' end) as quality_codes,
        recorded_at, patient_id, hospital_id, department_name, doctor_id, arrival_mode, arrival_at,
        timezone(time_zone, arrival_at) as arrival_local, handover_at, triage_at, triage_level, room_at,
        provider_at, decision_at, departure_at, disposition, chief_complaint,
        case when rule is null and patient_id <> first_value(patient_id) over (
                partition by visit_id, rule is null
                order by recorded_at, source_file, source_line, source_part)
            then 'visit_id_conflict' else rule end as rule
    from mapped
)
select * exclude (rule),
    case when rule is not null then rule
        when row_number() over newest_first = 1 then null
        when max(recorded_at) over of_one is not distinct from recorded_at then 'duplicate'
        else 'superseded' end as rule
from owned
window of_one as (partition by service_date, visit_id, rule is null),
    newest_first as (partition by service_date, visit_id, rule is null
        order by recorded_at desc nulls last, source_file desc, source_line desc, source_part desc);

create table visits as select * exclude (rule) from judged_visits where rule is null;
create table visits_aside as
select j.service_date, source_file, source_line, source_part, source_profile, rule,
    case rule
        when 'wrong_field_count' then 'The line has more or fewer fields than the header.'
        when 'unreadable_line' then 'The line is not a record of its file''s format.'
        when 'visit_id_missing' then 'A visit needs a visit number.'
        when 'patient_id_missing' then 'A visit needs a patient.'
        when 'hospital_unknown' then 'The hospital is not one of the network''s hospitals.'
        when 'arrival_missing' then 'The arrival is missing or unreadable.'
        when 'arrival_in_future' then 'The arrival is later than its record (by more than its profile allows).'
        when 'visit_id_conflict' then 'The visit number already belongs to another patient, recorded earlier.'
        when 'duplicate' then 'The same record was landed before.'
        when 'superseded' then 'A newer record of the same thing was landed.' end as reason,
    rule in ('duplicate', 'superseded') as is_duplicate, r.record
from judged_visits j
    left join (select source_file, source_line, source_part, record from raw_er_visits) r
    using (source_file, source_line, source_part)
where rule is not null;
drop table judged_visits;

-- NEWS2 as of the patient then.
create table facts as
with found as (
    select v.* replace (coalesce(spo2_scale, 1) as spo2_scale), coalesce(p.patient_key, -1) as patient_key,
        p.birth_date, p.age_at_extract_years,
        case when birth_date is null then age_at_extract_years
            when measured_local::date >= birth_date then
                year(measured_local) - year(birth_date)
                - (strftime(measured_local, '%m%d') < strftime(birth_date, '%m%d'))::bigint end as age_years
    from vitals v left join dim_patient p
        on p.patient_id = v.patient_id and measured_at >= valid_from_at and measured_at < valid_to_at
), charted as (
    select *, round(respiratory_rate_per_min) as r, round(spo2_pct) as o, round(systolic_mmhg) as s,
        round(heart_rate_bpm) as p, round(temperature_c, 1) as t
    from found
), pointed as (
    select * exclude (r, o, s, p, t),
        case when r <= 8 then 3 when r <= 11 then 1 when r <= 20 then 0 when r <= 24 then 2
            when r is not null then 3 end as respiratory_rate_points,
        case when spo2_scale <> 2 then case when o <= 91 then 3 when o <= 93 then 2 when o <= 95 then 1
                when o is not null then 0 end
            when is_on_oxygen then case when o <= 83 then 3 when o <= 85 then 2 when o <= 87 then 1
                when o <= 92 then 0 when o <= 94 then 1 when o <= 96 then 2 when o is not null then 3 end
            when not is_on_oxygen then case when o <= 83 then 3 when o <= 85 then 2 when o <= 87 then 1
                when o is not null then 0 end end as spo2_points,
        case when is_on_oxygen then 2 when not is_on_oxygen then 0 end as oxygen_points,
        case when s <= 90 then 3 when s <= 100 then 2 when s <= 110 then 1 when s <= 219 then 0
            when s is not null then 3 end as systolic_points,
        case when p <= 40 then 3 when p <= 50 then 1 when p <= 90 then 0 when p <= 110 then 1
            when p <= 130 then 2 when p is not null then 3 end as pulse_points,
        case when consciousness = 'A' then 0 when consciousness is not null then 3 end
            as consciousness_points,
        case when t <= 35 then 3 when t <= 36 then 1 when t <= 38 then 0 when t <= 39 then 1
            when t is not null then 2 end as temperature_points
    from charted
), summed as (
    select *,
        (respiratory_rate_points is null)::bigint + (spo2_points is null)::bigint
            + (oxygen_points is null)::bigint + (systolic_points is null)::bigint
            + (pulse_points is null)::bigint + (consciousness_points is null)::bigint
            + (temperature_points is null)::bigint as news2_missing_count,
        case when age_years >= 16 then (respiratory_rate_points + spo2_points + oxygen_points + systolic_points
            + pulse_points + consciousness_points + temperature_points)::bigint end as news2_score,
        case when age_years >= 16 then coalesce(3 = greatest(respiratory_rate_points, spo2_points,
            systolic_points, pulse_points, consciousness_points, temperature_points), false) end
            as has_news2_red_parameter
    from pointed
)
select *,
    case when news2_score >= 7 then 'emergency' when news2_score >= 5 then 'urgent'
        when has_news2_red_parameter then 'urgent_ward_review'
        when news2_score is not null then 'low' end as news2_response
from summed;

create table daily as
select hospital_id, service_date, count(*) as n, sum(wait) as wait_minutes, median(wait) as median_minutes
from (select *, (epoch_us(provider_at) - epoch_us(arrival_at)) / 60e6 as wait from visits)
group by all;
