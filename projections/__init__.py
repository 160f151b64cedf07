"""Facts out: folds, their Postgres tables, Redis snapshots, the read API and the pages."""
