"""Alerts: what was raised, what became of it, and how it reaches people.

Belongs here: the settings (limits, notifiers), the outbox that remembers, the notifiers that send.
Does not belong here: the rules and the looks that raise alerts (`automation.alert_rules`,
`automation.monitor`), Dagster, any table. No identifier of a patient leaves this package: messages say
where, when and what, and carry the alert's own number, under which those who may can look up whom.
"""
