"""The numbers that decide: each limit once, with its unit and its source.

To change one is to change its line: facts, KPIs, alerts, the live board, checks and the texts of contracts and
pages read it here. Rules that use them are functions of their own modules (`waits`, `four_hour`, `lwbs`,
`news2`, `triage`). Does not belong here: limits of time and size that the machinery needs.
"""

from __future__ import annotations

# Waits --------------------------------------------------------------------------------------------

#: Minutes; waits this long are clerical errors (CIHI/Ontario indicator library).
LONGEST_WAIT_MINUTES = 100_000
#: Critical patients are to be seen within this (CTAS level 2).
CRITICAL_WAIT_MINUTES = 15
#: A target of 0 minutes, "immediately", is met within this (METEOR 395017).
IMMEDIATE_MINUTES = 2
#: Triage is to happen within this after arrival (NHS England ECDS, time to initial assessment).
TRIAGE_MINUTES = 15
#: Who arrived longer ago is, on the live board, an open record rather than a person who waits.
LONGEST_WAITING_HOURS = 24

# Emergency visits ---------------------------------------------------------------------------------

#: The four-hour standard (NHS England ECDS; AIHW NEAT 489630).
FOUR_HOUR_MINUTES = 240
#: An ambulance's four-hour clock starts this long after arrival at the latest (NHS England ECDS).
HANDOVER_GRACE_MINUTES = 15
#: The twelve-hour standard and the trolley wait (NHS England).
TWELVE_HOUR_MINUTES = 720
#: Boarding for more than this is long (CMS1244).
LONG_BOARDING_MINUTES = 240
#: ECAT compares whole minutes with these (CMS1244).
ECAT_ROOM_MINUTES = 61
ECAT_BOARDING_MINUTES = 241
ECAT_STAY_MINUTES = 481
#: ECAT's z-scores compare hospitals within volume bands of this many visits a year.
ECAT_BAND_VISITS = 20_000
#: Days without any record at a hospital, between two with some, are days on which nobody came, up to this many; more
#: are a gap in the data, as between de-identified visits (local).
LONGEST_QUIET_DAYS = 31
#: Returns count until this long after departure (WestJEM; Ontario ED Return Visit Program).
RETURN_HOURS = 72
#: An emergency visit without an end counts as present until this long after arrival: a record left open is not a
#: patient (ECDS leaves out attendances over 72 hours). A known departure is never cut.
LONGEST_PRESENCE_HOURS = 72
#: Patients per treatment space; above it more patients die within ten days (Nordic emergency departments).
CROWDED_RATIO = 0.9

# Ambulance handovers ------------------------------------------------------------------------------

#: To be done within this; delays are counted over the other two (NHS England, ambulance quality indicators).
HANDOVER_MINUTES = 15
LATE_HANDOVER_MINUTES = 30
LONG_HANDOVER_MINUTES = 60

# NEWS2 --------------------------------------------------------------------------------------------

#: NEWS2 applies from this age on (RCP 2017).
NEWS2_MINIMUM_AGE_YEARS = 16
#: Scores from which on the response is urgent, and an emergency (RCP 2017).
NEWS2_URGENT_SCORE = 5
NEWS2_EMERGENCY_SCORE = 7
#: An emergency score asks for an assessment within this (RCP 2017).
NEWS2_RESPONSE_MINUTES = 30
#: A full set of observations is to be there so long after arrival or triage (RCEM, Vital signs in majors).
FIRST_SET_MINUTES = 15
#: Nobody should be without one for longer than this (local).
LATEST_FIRST_SET_MINUTES = 60

# Beds and stays -----------------------------------------------------------------------------------

#: An emergency stay longer than this is an overstay (local).
OVERSTAY_HOURS = 50
#: An inpatient stay longer than this is one: 21 days (NHS England, long lengths of stay).
INPATIENT_OVERSTAY_HOURS = 504
#: An inpatient without an end counts as present until this long after the last message that placed the patient
#: (local; the NHS reviews every stay of 21 days): 30 days.
LONGEST_OPEN_STAY_HOURS = 720
#: Readmissions count until this many days after discharge (CMS HWR).
READMISSION_DAYS = 30
#: Discharges before this hour of the wall clock (Wertheimer et al., J Hosp Med 2014).
NOON_HOUR = 12
#: Above this share of beds people wait for one (NHS England's planning guidance for 2023/24).
FULL_PCT = 92
#: A department whose bed-minutes are used to this share or more is a bottleneck (local).
BOTTLENECK_PCT = 95

# Shifts -------------------------------------------------------------------------------------------

#: A shift of this or more is long (local).
LONG_SHIFT_HOURS = 12
#: A shift that starts at this local hour or later is a night (local).
NIGHT_STARTS_HOUR = 21
#: A night follows a night when less than this lies between them (local).
NIGHT_AFTER_NIGHT_HOURS = 24
#: Rest between two shifts is to be at least this (Directive 2003/88/EC, article 3).
SHORTEST_REST_HOURS = 11

# People -------------------------------------------------------------------------------------------

#: A higher age is a clerical error.
MAXIMUM_AGE_YEARS = 120
