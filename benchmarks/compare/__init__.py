"""Every method through every task, with equal budgets: ``python -m benchmarks.compare``."""
