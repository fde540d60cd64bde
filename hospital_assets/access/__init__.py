"""Users and sign-in, what users may run, and the record of what they did.

Belongs here: users and their sign-in, the SQL gateway and its sandbox, the audit log. Does not: what a role
may see (`publishing.policy`).
"""
