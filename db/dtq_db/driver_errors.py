"""Translates the driver's errors: who must act, and whether a statement may have taken effect."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from dtq.domain.errors import Rejected, Unavailable, Unmigrated

TRANSACTION_MODE: Final = (
    "Postgres is behind a pooler in transaction mode, which does not keep sessions: set pool_mode=session for this"
    " database in PgBouncer, or connect DB_DSN to Postgres directly"
)
POOLER: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""The errors of a prepared statement in another client's session."""

UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, cannot connect now, statement timeout
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # serialization failure and deadlock
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

_UNMIGRATED: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidCatalogNameError,
)
"""The errors if the database, our schema or a part of it is missing."""

_UNDONE: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
)
"""The errors that guarantee that the statement had no effect."""


@contextmanager
def translated(*, sent: bool = True) -> Iterator[None]:
    """Turn the errors of an unavailable database into `Unavailable`; any other error is a bug and is passed on.

    Args:
        sent: a statement may have been sent, so that without an answer its outcome is in doubt.

    Raises:
        Unavailable: with the driver's message; `Unmigrated` if the schema or a privilege on it is missing.
        Rejected: `NotStorable`: a value is valid JSON that Postgres cannot store.
    """
    try:
        yield
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
        raise Rejected("NotStorable", f"Postgres cannot hold a value: {type(error).__name__}") from error
    except POOLER as error:
        raise Unavailable(TRANSACTION_MODE) from error
    except UNAVAILABLE as error:
        in_doubt = sent and not isinstance(error, _UNDONE)
        raise Unavailable(f"Postgres does not answer: {type(error).__name__}: {error}", in_doubt=in_doubt) from error
    except _UNMIGRATED as error:
        raise Unmigrated(f"the database does not have this release's schema ({error}): run `dtq migrate`") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unmigrated(
            f"the database user lacks a privilege ({error}): run `dtq migrate --roles`, and grant the user the role of"
            " its process"
        ) from error
    except asyncpg.PostgresError as error:
        error.detail = None  # it may show a whole row, including a payload
        raise
