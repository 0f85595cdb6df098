"""Speed, start-up, memory and scale: ``python -m benchmarks.systems.throughput``."""
