"""The calls under /v1, one module per entity; `call` is what they have in common."""
