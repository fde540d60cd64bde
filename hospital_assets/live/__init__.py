"""Assesses records as they land, before any run: whom to alert, and who is waiting where.

Belongs here: the small copies that can be read while a run holds the warehouse, the rules that raise
alerts, the monitor that applies them, the data of the live board. Does not belong here: how alerts are stored and
sent (`alerts`), how the board is shown (`dashboard`).
"""
