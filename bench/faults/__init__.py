"""What clients notice of faults and of moving shards: sessions that are never idle, and how long each had to wait."""
