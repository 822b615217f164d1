"""The benchmark `actors`, and the programs that it runs."""
