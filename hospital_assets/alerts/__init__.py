"""Alerts: their state, and how they reach people.

Belongs here: the settings (limits, notifiers), the outbox that stores alerts, the notifiers that send them.
Does not belong here: the rules and the monitor that raise alerts (`live.alert_rules`, `live.monitor`), Dagster,
any table. No identifier of a patient leaves this package: messages say where, when and what, and carry the
alert's own number, with which authorised people can look up the patient.
"""
