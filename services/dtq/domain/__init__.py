"""The core: what a task queue decides, as pure functions and frozen values.

Nothing here does I/O or reads a clock, the environment or a random source; `make lint` checks it.
"""
