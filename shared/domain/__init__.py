"""The pure heart: identities, meters, windows, money, errors. No I/O, no pydantic, imports nothing else of Khata."""
