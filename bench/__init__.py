"""Benchmarks: what Troupe must show, measured beside its peers in one run. `README.md` says how to run them."""
