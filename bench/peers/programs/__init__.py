"""One program per peer in Python. Each runs in its peer's own environment: nothing of dtq is imported but the tally."""
