-- The work of `hospital build` as one DuckDB script, the way a skilled analyst would write it once.
--
-- It lands the same files, keeps their text and the vitals as VARIANT, types, converts to UTC,
-- deduplicates, and makes the same dimensions, facts and KPIs. It does not: keep lines and verbatim
-- CSV records, survive a broken file, say why a record was set aside, check, or re-run one day.
-- `build.py` runs it statement by statement; {landing} is the folder of the native profile.

-- raw
create schema raw; create schema cleaned; create schema dimensions; create schema facts; create schema kpis;
create table raw.hospitals as from read_csv('{landing}/hospitals/*.csv', all_varchar = true, filename = true);
create table raw.departments as from read_csv('{landing}/departments/*.csv', all_varchar = true, filename = true);
create table raw.doctors as from read_csv('{landing}/doctors/*.csv', all_varchar = true, filename = true);
create table raw.doctor_shifts as from read_csv('{landing}/doctor_shifts/*.csv', all_varchar = true, filename = true);
create table raw.patients as from read_csv('{landing}/patients/*.csv', all_varchar = true, filename = true);
create table raw.er_visits as from read_csv('{landing}/er_visits/*.csv', all_varchar = true, filename = true);
create table raw.diagnoses as from read_csv('{landing}/diagnoses/*.csv', all_varchar = true, filename = true);
create table raw.procedures as from read_csv('{landing}/procedures/*.csv', all_varchar = true, filename = true);
create table raw.vitals as
    select filename, record, found[1] as observation_id, found[2] as visit_id, found[3] as patient_id, found[4] as hospital_id,
           found[5] as device_id, found[6] as measured_at, found[7] as recorded_at, cast(found[8] as json)::variant as payload
    from (select filename, record, json_extract_string(case when json_valid(record) then record end, ['$.observation_id', '$.visit_id',
                 '$.patient_id', '$.hospital_id', '$.device_id', '$.measured_at', '$.recorded_at', '$.vitals']) as found
          from (select filename, unnest(string_split(content, chr(10))) as record from read_text({vitals_files})) where record <> '');
create table raw.adt_events as
    select filename, record, found[1] as message_id, found[2] as event_type, found[3] as visit_id, found[4] as patient_id,
           found[5] as prior_patient_id, found[6] as hospital_id, found[7] as department, found[8] as bed_id, found[9] as event_at,
           found[10] as visit_start_at, found[11] as recorded_at, found[12] as discharge_disposition
    from (select filename, record, json_extract_string(case when json_valid(record) then record end, ['$.message_id', '$.event_type',
                 '$.visit_id', '$.patient_id', '$.prior_patient_id', '$.hospital_id', '$.department', '$.bed_id', '$.event_at',
                 '$.visit_start_at', '$.recorded_at', '$.discharge_disposition']) as found
          from (select filename, unnest(string_split(content, chr(10))) as record from read_text({adt_files})) where record <> '');

-- cleaned
create table cleaned.hospitals as select distinct trim(hospital_id) as hospital_id, hospital_name, city, state, trim(time_zone) as time_zone from raw.hospitals;
create table cleaned.er_visits as
    with typed as (
        select trim(v.visit_id) as visit_id, trim(v.patient_id) as patient_id, trim(v.hospital_id) as hospital_id, h.time_zone,
               case upper(trim(department)) when 'ED' then 'Emergency' when 'ER' then 'Emergency' else trim(department) end as department_name,
               nullif(trim(doctor_id), '') as doctor_id, trim(arrival_mode) as arrival_mode, try_cast(triage_level as integer) as triage_level,
               coalesce(try_cast(arrival_time as timestamp), try_strptime(arrival_time, '%m/%d/%Y %H:%M')) as arrival_local,
               timezone(h.time_zone, arrival_local) as arrival_at,
               timezone(h.time_zone, coalesce(try_cast(handover_time as timestamp), try_strptime(handover_time, '%m/%d/%Y %H:%M'))) as handover_at,
               timezone(h.time_zone, coalesce(try_cast(triage_time as timestamp), try_strptime(triage_time, '%m/%d/%Y %H:%M'))) as triage_at,
               timezone(h.time_zone, coalesce(try_cast(room_time as timestamp), try_strptime(room_time, '%m/%d/%Y %H:%M'))) as room_at,
               timezone(h.time_zone, coalesce(try_cast(provider_time as timestamp), try_strptime(provider_time, '%m/%d/%Y %H:%M'))) as provider_at,
               timezone(h.time_zone, coalesce(try_cast(decision_time as timestamp), try_strptime(decision_time, '%m/%d/%Y %H:%M'))) as decision_at,
               timezone(h.time_zone, coalesce(try_cast(departure_time as timestamp), try_strptime(departure_time, '%m/%d/%Y %H:%M'))) as departure_at,
               timezone(h.time_zone, try_cast(v.recorded_at as timestamp)) as recorded_at, trim(disposition) as disposition, chief_complaint, filename
        from raw.er_visits v join cleaned.hospitals h on h.hospital_id = trim(v.hospital_id)
    )
    select cast(arrival_local as date) as service_date, * from typed where visit_id <> '' and patient_id <> '' and arrival_at is not null
    qualify row_number() over (partition by visit_id order by recorded_at desc, filename desc) = 1;
create table cleaned.vitals as
    with parsed as (
        select observation_id, visit_id, patient_id, v.hospital_id, device_id, h.time_zone, filename,
               try_cast(measured_at as timestamptz) as measured_at, try_cast(recorded_at as timestamptz) as recorded_at,
               json_extract_string(cast(payload as json), ['$.heart_rate.value', '$.respiratory_rate.value', '$.spo2.value', '$.systolic_bp.value',
                   '$.diastolic_bp.value', '$.temperature.value', '$.temperature.unit', '$.consciousness', '$.on_oxygen', '$.spo2_scale', '$.gcs', '$.pain']) as f
        from raw.vitals v join cleaned.hospitals h on h.hospital_id = v.hospital_id
    ), typed as (
        select observation_id, visit_id, patient_id, hospital_id, device_id, measured_at, recorded_at, timezone(time_zone, measured_at) as measured_local, filename,
               case when try_cast(f[1] as double) between 1 and 299 then try_cast(f[1] as double) end as heart_rate_bpm,
               case when try_cast(f[2] as double) between 1 and 69 then try_cast(f[2] as double) end as respiratory_rate_per_min,
               case when try_cast(f[3] as double) <= 1 then try_cast(f[3] as double) * 100 when try_cast(f[3] as double) <= 100 then try_cast(f[3] as double) end as spo2_pct,
               case when try_cast(f[4] as double) between 1 and 399 then try_cast(f[4] as double) end as systolic_mmhg,
               case when try_cast(f[5] as double) between 1 and 299 then try_cast(f[5] as double) end as diastolic_mmhg,
               case when try_cast(f[6] as double) between 70 and 120 then round((try_cast(f[6] as double) - 32) / 1.8, 1)
                    when try_cast(f[6] as double) between 10 and 50 then try_cast(f[6] as double) end as temperature_c,
               upper(f[8]) as consciousness, try_cast(f[9] as boolean) as is_on_oxygen, try_cast(f[10] as integer) as spo2_scale,
               try_cast(f[11] as integer) as gcs_score, try_cast(f[12] as integer) as pain_score
        from parsed
    )
    select cast(measured_local as date) as service_date, * from typed
    where observation_id <> '' and measured_at is not null and measured_at <= recorded_at + interval 1 day
    qualify row_number() over (partition by observation_id order by recorded_at desc, filename desc) = 1;
create table cleaned.adt_events as
    select cast(timezone(time_zone, try_cast(visit_start_at as timestamptz)) as date) as service_date, message_id, event_type, visit_id, patient_id, e.hospital_id,
           case upper(trim(department)) when 'ED' then 'Emergency' when 'ER' then 'Emergency' else trim(department) end as department_name, bed_id,
           try_cast(event_at as timestamptz) as event_at, try_cast(recorded_at as timestamptz) as recorded_at, discharge_disposition
    from raw.adt_events e join cleaned.hospitals h on h.hospital_id = e.hospital_id
    where message_id <> '' and try_cast(event_at as timestamptz) is not null
    qualify row_number() over (partition by message_id order by try_cast(recorded_at as timestamptz) desc) = 1;
create table cleaned.patients as
    select trim(patient_id) as patient_id, try_cast(recorded_at as timestamptz) as recorded_at, any_value(columns(* exclude (patient_id, recorded_at, birth_date))),
           any_value(coalesce(try_cast(birth_date as date), cast(try_strptime(birth_date, ['%m/%d/%Y', '%d.%m.%Y']) as date))) as birth_date
    from raw.patients where trim(patient_id) <> '' group by all;
create table cleaned.diagnoses as
    select try_cast(encounter_date as date) as service_date, diagnosis_id, visit_id, patient_id, try_cast(sequence as integer) as sequence,
           upper(replace(icd10_code, '.', '')) as icd_code, description, try_cast(recorded_at as timestamp) as recorded_at
    from raw.diagnoses where diagnosis_id <> '' qualify row_number() over (partition by diagnosis_id order by recorded_at desc) = 1;
create table cleaned.procedures as
    select try_cast(encounter_date as date) as service_date, procedure_id, visit_id, patient_id, procedure_code, description
    from raw.procedures where procedure_id <> '' qualify row_number() over (partition by procedure_id order by recorded_at desc) = 1;
create table cleaned.departments as select trim(department_id) as department_id, trim(hospital_id) as hospital_id, trim(department_name) as department_name, try_cast(bed_capacity as integer) as bed_capacity, try_cast(effective_date as date) as effective_date from raw.departments;
create table cleaned.doctor_shifts as
    select shift_id, doctor_id, s.hospital_id, timezone(time_zone, try_cast(shift_start as timestamp)) as shift_start_at, timezone(time_zone, try_cast(shift_end as timestamp)) as shift_end_at
    from raw.doctor_shifts s join cleaned.hospitals h on h.hospital_id = s.hospital_id where shift_id <> '' qualify row_number() over (partition by shift_id order by recorded_at desc) = 1;

-- dimensions
create table dimensions.dim_patient as
    with changes as (
        select *, hash(first_name, last_name, birth_date, sex, street, city, zip, insurer, blood_group) as _h,
               lag(_h) over (partition by patient_id order by recorded_at) as _before from cleaned.patients
    )
    select cast('0x' || left(md5(patient_id || '|' || recorded_at::varchar), 15) as bigint) as patient_key, * exclude (_h, _before),
           case when row_number() over by_patient = 1 then timestamptz '1900-01-01' else recorded_at end as valid_from_at,
           coalesce(lead(recorded_at) over by_patient, timestamptz '9999-12-31') as valid_to_at
    from changes where _before is distinct from _h window by_patient as (partition by patient_id order by recorded_at);
create table dimensions.dim_department as
    select cast('0x' || left(md5(department_id || '|' || effective_date::varchar), 15) as bigint) as department_key, *,
           case when row_number() over d = 1 then timestamptz '1900-01-01' else effective_date::timestamptz end as valid_from_at,
           coalesce(lead(effective_date::timestamptz) over d, timestamptz '9999-12-31') as valid_to_at
    from cleaned.departments window d as (partition by department_id order by effective_date);
create table dimensions.dim_doctor as select cast('0x' || left(md5(doctor_id), 15) as bigint) as doctor_key, * from raw.doctors;
create table dimensions.dim_condition as select distinct cast('0x' || left(md5(icd_code), 15) as bigint) as condition_key, icd_code, description from cleaned.diagnoses;

-- facts
create table facts.fact_emergency_visits as
    with principal as (select visit_id, min_by(icd_code, sequence) as icd_code from cleaned.diagnoses group by visit_id)
    select v.* exclude (filename), p.patient_key, d.department_key, r.doctor_key, c.condition_key, date_sub('year', p.birth_date, v.arrival_local) as age_years,
           least(v.arrival_at, coalesce(v.triage_at, v.arrival_at)) as start_at,
           case when provider_at is null then 'no_provider' when provider_at < start_at then 'negative' end as wait_exclusion,
           case when provider_at >= start_at then (epoch_us(provider_at) - epoch_us(start_at)) / 60e6 end as wait_minutes,
           case when coalesce(decision_at, departure_at) >= provider_at then (epoch_us(coalesce(decision_at, departure_at)) - epoch_us(provider_at)) / 60e6 end as treatment_minutes,
           case when departure_at >= arrival_at then (epoch_us(departure_at) - epoch_us(arrival_at)) / 60e6 end as los_minutes
    from cleaned.er_visits v
    left join dimensions.dim_patient p on p.patient_id = v.patient_id and v.arrival_at >= p.valid_from_at and v.arrival_at < p.valid_to_at
    left join dimensions.dim_department d on d.hospital_id = v.hospital_id and d.department_name = v.department_name and v.arrival_at >= d.valid_from_at and v.arrival_at < d.valid_to_at
    left join dimensions.dim_doctor r on r.doctor_id = v.doctor_id
    left join principal using (visit_id) left join dimensions.dim_condition c on c.icd_code = principal.icd_code
    order by service_date, visit_id;
create table facts.fact_vitals as
    with pointed as (
        select o.* exclude (filename), p.patient_key, date_sub('year', p.birth_date, o.measured_local) as age_years,
               case when respiratory_rate_per_min <= 8 then 3 when respiratory_rate_per_min <= 11 then 1 when respiratory_rate_per_min <= 20 then 0 when respiratory_rate_per_min <= 24 then 2 when respiratory_rate_per_min > 24 then 3 end as respiratory_rate_points,
               case when spo2_scale = 2 and is_on_oxygen then case when spo2_pct <= 83 then 3 when spo2_pct <= 85 then 2 when spo2_pct <= 87 then 1 when spo2_pct <= 92 then 0 when spo2_pct <= 94 then 1 when spo2_pct <= 96 then 2 when spo2_pct > 96 then 3 end
                    when spo2_scale = 2 then case when spo2_pct <= 83 then 3 when spo2_pct <= 85 then 2 when spo2_pct <= 87 then 1 when spo2_pct > 87 then 0 end
                    else case when spo2_pct <= 91 then 3 when spo2_pct <= 93 then 2 when spo2_pct <= 95 then 1 when spo2_pct > 95 then 0 end end as spo2_points,
               case when is_on_oxygen then 2 when not is_on_oxygen then 0 end as oxygen_points,
               case when systolic_mmhg <= 90 then 3 when systolic_mmhg <= 100 then 2 when systolic_mmhg <= 110 then 1 when systolic_mmhg <= 219 then 0 when systolic_mmhg > 219 then 3 end as systolic_points,
               case when heart_rate_bpm <= 40 then 3 when heart_rate_bpm <= 50 then 1 when heart_rate_bpm <= 90 then 0 when heart_rate_bpm <= 110 then 1 when heart_rate_bpm <= 130 then 2 when heart_rate_bpm > 130 then 3 end as pulse_points,
               case when consciousness = 'A' then 0 when consciousness is not null then 3 end as consciousness_points,
               case when temperature_c <= 35 then 3 when temperature_c <= 36 then 1 when temperature_c <= 38 then 0 when temperature_c <= 39 then 1 when temperature_c > 39 then 2 end as temperature_points
        from cleaned.vitals o left join dimensions.dim_patient p on p.patient_id = o.patient_id and o.measured_at >= p.valid_from_at and o.measured_at < p.valid_to_at
    )
    select *, case when age_years >= 16 then respiratory_rate_points + spo2_points + oxygen_points + systolic_points + pulse_points + consciousness_points + temperature_points end as news2_score
    from pointed order by service_date, observation_id;
create table facts.fact_patient_flow as
    with kept as (select * from cleaned.adt_events where visit_id not in (select visit_id from cleaned.adt_events where event_type = 'A11' and visit_id is not null)),
    moves as (
        select *, lead(event_type) over v as next_type from kept where event_type in ('A01', 'A02', 'A04', 'A06', 'A07', 'A12') window v as (partition by visit_id order by event_at, recorded_at, message_id)
    ), discharged as (
        select visit_id, max_by(event_at, recorded_at) as discharged_at, max_by(discharge_disposition, recorded_at) as disposition
        from (select *, lead(event_type) over (partition by visit_id order by event_at, recorded_at) as next_type from kept where event_type in ('A03', 'A13'))
        where event_type = 'A03' and next_type is distinct from 'A13' group by visit_id
    ), segments as (
        select m.* exclude (next_type), row_number() over v as segment_number, event_at as segment_start_at, coalesce(lead(event_at) over v, discharged_at) as segment_end_at,
               case when sum(case when event_type in ('A01', 'A06') then 1 else 0 end) over v > 0 then 'inpatient' else 'emergency' end as stay_class, disposition
        from moves m left join discharged using (visit_id)
        where event_type <> 'A12' and not (event_type = 'A02' and next_type is not distinct from 'A12') and (discharged_at is null or event_at <= discharged_at)
        window v as (partition by visit_id order by event_at, recorded_at, message_id)
    )
    select s.*, d.department_key, d.department_id, p.patient_key, (epoch_us(segment_end_at) - epoch_us(segment_start_at)) / 3600e6 as segment_hours
    from segments s
    left join dimensions.dim_department d on d.hospital_id = s.hospital_id and d.department_name = s.department_name and s.segment_start_at >= d.valid_from_at and s.segment_start_at < d.valid_to_at
    left join dimensions.dim_patient p on p.patient_id = s.patient_id and s.segment_start_at >= p.valid_from_at and s.segment_start_at < p.valid_to_at
    order by service_date, visit_id, segment_number;
create table facts.fact_bed_occupancy as
    select department_id, hour_start_at, sum(epoch_us(least(until_at, hour_start_at + interval 1 hour)) - epoch_us(greatest(segment_start_at, hour_start_at))) / 60e6 as occupied_bed_minutes,
           count(*) filter (segment_start_at <= hour_start_at and until_at > hour_start_at) as patients_at_start_count
    from (select department_id, segment_start_at, until_at, unnest(generate_series(date_trunc('hour', segment_start_at), until_at - interval 1 microsecond, interval 1 hour)) as hour_start_at
          from (select department_id, segment_start_at, coalesce(segment_end_at, (select max(event_at) from cleaned.adt_events)) as until_at from facts.fact_patient_flow) where until_at > segment_start_at)
    group by all order by all;

-- KPIs
create table kpis.kpi_waits_daily as
    select service_date, hospital_id, department_name, triage_level, count(*) as visit_count, count(wait_minutes) as wait_count, sum(wait_minutes) as wait_sum_minutes, avg(wait_minutes) as wait_average_minutes,
           median(wait_minutes) as wait_median_minutes, quantile_cont(wait_minutes, 0.9) as wait_p90_minutes, max(wait_minutes) as wait_max_minutes, count(*) filter (wait_exclusion = 'no_provider') as excluded_no_provider_count
    from facts.fact_emergency_visits group by service_date, cube (hospital_id, department_name, triage_level) order by all;
create table kpis.kpi_waits as
    select hospital_id, department_name, triage_level, count(*) as visit_count, count(wait_minutes) as wait_count, sum(wait_minutes) as wait_sum_minutes, avg(wait_minutes) as wait_average_minutes,
           median(wait_minutes) as wait_median_minutes, quantile_cont(wait_minutes, 0.9) as wait_p90_minutes, max(wait_minutes) as wait_max_minutes
    from facts.fact_emergency_visits group by cube (hospital_id, department_name, triage_level) order by all;
create table kpis.kpi_waits_rolling as
    select d.service_date, d.hospital_id, sum(w.wait_sum_minutes) / sum(w.wait_count) as rolling_wait_average_minutes
    from kpis.kpi_waits_daily d join kpis.kpi_waits_daily w on w.hospital_id is not distinct from d.hospital_id and w.service_date between d.service_date - 6 and d.service_date
    where d.department_name is null and d.triage_level is null and w.department_name is null and w.triage_level is null group by all;
create table kpis.kpi_arrivals_hourly as select service_date, hospital_id, date_trunc('hour', arrival_at) as hour_start_at, count(*) as arrivals_count from facts.fact_emergency_visits group by all;
create table kpis.kpi_peak_hours as select hospital_id, isodow(arrival_local) as weekday, hour(arrival_local) as hour, count(*) / count(distinct service_date) as arrivals_per_hour from facts.fact_emergency_visits group by all;
create table kpis.kpi_conditions as select hospital_id, icd_code, count(*) as visit_count from facts.fact_emergency_visits v join dimensions.dim_condition c using (condition_key) group by cube (hospital_id), icd_code;
create table kpis.kpi_triage_mix as select service_date, hospital_id, triage_level, count(*) as visit_count from facts.fact_emergency_visits group by service_date, cube (hospital_id), triage_level;
create table kpis.kpi_critical_cases as select service_date, hospital_id, count(*) as critical_count, count(*) filter (wait_minutes > 15) as late_count from facts.fact_emergency_visits where triage_level in (1, 2) group by all;
create table kpis.kpi_physician_workload as
    select v.doctor_id, v.hospital_id, v.visit_count, s.shift_hours, v.visit_count / s.shift_hours as visits_per_shift_hour
    from (select doctor_id, hospital_id, count(*) as visit_count from facts.fact_emergency_visits where provider_at is not null group by all) v
    left join (select doctor_id, sum(epoch(shift_end_at) - epoch(shift_start_at)) / 3600 as shift_hours from cleaned.doctor_shifts group by all) s using (doctor_id);
create table kpis.kpi_blood_groups as select hospital_id, blood_group, count(distinct v.patient_id) as patient_count from facts.fact_emergency_visits v join dimensions.dim_patient p using (patient_key) group by all;
create table kpis.kpi_demographics as select v.hospital_id, p.sex, p.race, p.ethnicity, v.age_years // 10 as age_decade, count(*) as visit_count, count(distinct v.patient_id) as patient_count from facts.fact_emergency_visits v left join dimensions.dim_patient p using (patient_key) group by all;
create table kpis.kpi_occupancy_daily as select cast(hour_start_at as date) as day, department_id, sum(occupied_bed_minutes) as occupied_bed_minutes, max(patients_at_start_count) as peak_count from facts.fact_bed_occupancy group by all;
checkpoint;
