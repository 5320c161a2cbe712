"""The command `dtq`: one sub-command per process and per thing that a person does."""
