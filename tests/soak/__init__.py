"""`make soak`: a station for an hour of compressed days, and what its processes hold meanwhile."""
