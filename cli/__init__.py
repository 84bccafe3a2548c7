"""`khata`: noun then verb, composed of each service's commands. Data on stdout, progress on stderr."""
