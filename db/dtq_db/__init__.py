"""Postgres: where truth and time are kept. The only package that knows asyncpg.

SQL is source: transitions are functions in `schema/`, everything else is one statement a file in `queries/`.
"""
