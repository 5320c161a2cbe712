"""dtq: a Kubernetes-native distributed task queue.

The author of a handler imports from here; everything else is internal.
"""

from dtq.handlers import Context, PermanentError, RetryLater, Snooze, handler

__all__ = ["Context", "PermanentError", "RetryLater", "Snooze", "handler"]
