"""The command line: `python -m sqla_poolguard` and what only it needs; the library must not import it."""
