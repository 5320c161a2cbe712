"""`python -m dtq_cli` is the command `dtq`."""

from dtq_cli.main import main

main()
