"""What is published to whom: one policy, and masked publications made and checked by it.

DuckDB has no users and no inner privilege boundary: whoever can open a file can read all of it. So what a
role may not see is never written to the file it gets.

Belongs here: the policy and its masks, pseudonyms, small cells, the leak check, publications with their
versions, and what becomes of them elsewhere (`targets`). Knows contracts and the warehouse; does not say
what a table means. Does not belong here: who signs in and what they did (`access`).
"""
