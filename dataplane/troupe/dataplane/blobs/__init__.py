"""Payloads too large to travel inside messages: kept once, by what they say, and named by their digest."""
