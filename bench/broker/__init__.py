"""The benchmark `broker`, and the programs that it runs."""
