"""Benchmarks: each prints ratios measured in one run; none asserts a number of seconds."""
