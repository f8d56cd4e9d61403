"""The command line: options are read here, one function is called, its answer printed. No decisions, no torch."""
