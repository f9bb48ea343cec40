"""The command `mc`: arguments, files, progress, tables and exit codes around the library of the same name."""

__version__ = "0.1.0"  # the one place where the version stands; pyproject.toml reads it from here
