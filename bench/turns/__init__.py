"""The benchmark `turns`, and the programs that it runs."""
