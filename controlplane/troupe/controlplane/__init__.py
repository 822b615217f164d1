"""Takes revisions, stores them, places shards on workers, pushes both, gathers status."""
