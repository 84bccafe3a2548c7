"""Import files of usage: a mapping says what a row means; each row becomes one event with a stable identity."""
