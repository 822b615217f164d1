"""The benchmark `sessions`, and the programs that it runs."""
