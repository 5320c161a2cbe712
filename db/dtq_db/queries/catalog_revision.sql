-- A cheap check of what has changed in the catalog. Callers: the catalog caches.
SELECT revision, types_deleted_at, queue_sets_changed_at FROM catalog_revision
