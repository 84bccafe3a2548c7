"""Wire models, one file per topic. A breaking change makes a new topic version, never another meaning."""
