"""What sessions run: LLM agents, and actors that users write in Python."""
