"""What travels between services: topics, wire messages, headers. Imports only `shared.domain`."""
