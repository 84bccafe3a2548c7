"""Usage as aggregator and invoicer both see it: segments, folding, seals, reading. Only the seal is written here."""
