"""What is published to whom: one policy, and masked publications made and checked by it.

DuckDB has no users and no privileges inside a file: anyone who can open it can read all of it. So what a
role may not see is never written to its file.

Belongs here: the policy and its masks, pseudonyms, small cells, the leak check, publications with their
versions, and their copies on other servers (`targets`). Knows contracts and the warehouse. Does not belong
here: what a table means (`contracts`), who signs in and what they did (`access`).
"""
