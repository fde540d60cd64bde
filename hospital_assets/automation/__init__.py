"""What runs when: jobs, and the run of a whole build from the command line.

Belongs here: jobs, schedules, sensors, `build`, `watch`, the loading of waiting files, and the storage of Dagster's
own events. Does not belong here: what an asset or a check means.
"""
