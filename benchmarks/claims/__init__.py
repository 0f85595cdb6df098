"""One script a claim: ``python -m benchmarks.claims.retention``."""
