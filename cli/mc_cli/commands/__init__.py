"""The commands of `mc`, one file each: options, one call of the core, and what is shown of its report."""

from __future__ import annotations

import click

from mc_cli import options
from mc_cli.commands.analyze import analyze
from mc_cli.commands.auto import auto
from mc_cli.commands.pack import pack
from mc_cli.commands.prune import prune
from mc_cli.commands.quantize import quantize
from mc_cli.commands.unpack import unpack
from mc_cli.commands.verify import verify
from mc_cli.commands.warm import warm

EXIT_CODES = """\b
Exit codes:
  0    done, or intact
  1    refused, or an I/O error
  2    wrong usage
  3    damaged, or does not match the original
  4    an asked-for limit was not met
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)
"""
COMPLETION = """\b
Completion, for ~/.bashrc (zsh and fish likewise, with zsh_source and fish_source):
  eval "$(_MC_COMPLETE=bash_source mc)"
"""
EPILOG = EXIT_CODES + "\n" + COMPLETION + "\n" + options.examples("mc pack -h", "mc --version")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@options.version
def cli() -> None:
    """Compress neural-network checkpoints without loss, and check them.

    safetensors go in, one packed file that is itself a valid safetensors file comes out, and the original
    comes back byte for byte. - as a file name is stdin or stdout.
    """


for command in (analyze, auto, pack, prune, quantize, unpack, verify, warm):
    cli.add_command(command)
