"""What a hospital's IT runs: the services of an installation, and the doctor that says what is wrong with it.

Belongs here: how the parts are started, kept going and looked after. Does not: what they do.
"""

#: Commands that open the warehouse, and wait while another process has it.
WAREHOUSE_COMMANDS = (
    "build",
    "refresh",
    "watch",
    "check",
    "publish",
    "snapshot",
    "mirror",
    "history",
    "erase",
    "score",
    "report",
    "explain",
)
