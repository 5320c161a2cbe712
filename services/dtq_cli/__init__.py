"""The command `dtq`: one sub-command per process and per administrative action."""
