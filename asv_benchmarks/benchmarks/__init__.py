"""Benchmarks of numscope for asv; see the README for the commands."""
