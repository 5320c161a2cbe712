"""dtq: a Kubernetes-native distributed task queue.

What a handler's author imports stands here; everything else is internal.
"""

from dtq.handlers import Context, PermanentError, RetryLater, Snooze, handler

__all__ = ["Context", "PermanentError", "RetryLater", "Snooze", "handler"]
