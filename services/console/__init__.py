"""Console: what others may read of usage, over HTTP. Writes nothing."""
