"""`python -m mc_cli` is the command `mc`, for bare checkouts and where another `mc` comes first."""

from mc_cli.main import entry

if __name__ == "__main__":
    entry()
