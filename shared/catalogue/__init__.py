"""Organisations, projects, keys, meters: the file, the tables, the topic and its cache. Prices are the invoicer's."""
