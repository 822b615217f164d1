"""An OpenAI-compatible model server for development, tests and benchmarks."""
