"""The peers: what each is, how it is built, and the programs that enqueue and run its tasks."""
