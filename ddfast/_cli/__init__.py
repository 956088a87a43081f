"""The parts of the command line: each command's options and what it calls; `ddfast.cli.main` runs them."""
