"""The client of OpenAI-compatible chat completions."""
