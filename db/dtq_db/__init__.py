"""Postgres: the source of truth and of time. The only package that uses asyncpg.

Transitions are SQL functions in `schema/`; everything else is in `queries/`, one statement per file.
"""
