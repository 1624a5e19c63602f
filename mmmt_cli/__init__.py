"""The `mmmt` command line: thin, typed sub-commands over the three packages."""
