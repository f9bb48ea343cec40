"""The command `mc`: arguments, files, progress, tables and exit codes around the library of the same name."""
