"""What is assessed as it lands, before any run: who must be told, and who waits where.

Belongs here: the small copies that can be read while a run holds the warehouse, the rules that raise
alerts, the monitor that applies them, the data of the live board. Does not: how alerts are kept and sent
(`alerts`), how the board is shown (`dashboard`).
"""
