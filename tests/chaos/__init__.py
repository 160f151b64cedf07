"""`make chaos`: a whole station from the files that are shipped, faults by a seeded schedule, a checker."""
