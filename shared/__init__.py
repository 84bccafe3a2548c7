"""What every service stands on. Imports no service; layered as `pyproject.toml` (import-linter) says."""
