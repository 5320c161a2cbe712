-- The cheap question whether anything declared has changed, and what. Callers: the catalog caches.
SELECT revision, types_deleted_at, queue_sets_changed_at FROM catalog_revision
