"""What a process tells of itself: JSON logs, metrics, health. Imports only contracts and domain."""
