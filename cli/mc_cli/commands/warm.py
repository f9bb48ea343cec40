"""`mc warm`: compile everything once, so that no later command has to."""

from __future__ import annotations

import time

import click

from mc_cli import options, show


@click.command(epilog=options.examples("mc warm", "mc warm --json"))
@options.speaking
def warm(manner: show.Manner) -> int:
    """Compile all loops now and keep them, for images and CI caches.

    Without this, the loops that a file needs are compiled when the first such file comes. They are kept
    beside the installed package, or in the folder that NUMBA_CACHE_DIR names.
    """
    import mc

    began = time.perf_counter()
    mc.warm()
    seconds = time.perf_counter() - began
    if manner.json:
        show.document("warm", {"seconds": round(seconds, 3)}, manner)
    show.closing(f"All loops are compiled, {seconds:.2f} s.", manner)
    return 0
