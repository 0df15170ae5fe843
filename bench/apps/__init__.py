"""The Flower apps that the benchmarks run."""
