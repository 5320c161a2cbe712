-- The cheap question whether anything declared has changed. Callers: the catalog caches.
SELECT revision FROM catalog_revision
