"""NNCodec (ISO/IEC 15938-17) on matrices, in a Python of its own, as it can't be installed beside numpy 2.

    .venv/nncodec/bin/python bench/nncodec_peer.py MATRICES.npz QP...

Dependent quantization and parameter optimisation as by default. Prints a JSON object for each quantization parameter:
bytes of the whole bitstream, squared error and squares, CPU seconds of both directions.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time

import numpy as np


def main(path: str, qps: list[int]) -> None:
    from nncodec import nnc

    with np.load(path) as given:
        matrices = {name: given[name] for name in given.files}
    for qp in qps:
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
            began = time.process_time()
            copies = {name: w.copy() for name, w in matrices.items()}
            stream = nnc.compress(
                copies,
                bitstream_path=os.path.join(place, "s.nnc"),
                qp=qp,
                use_dq=True,
                row_skipping=True,
                return_bitstream=True,
            )
            coded = time.process_time()
            back = nnc.decompress(stream)
            done = time.process_time()
        squared = sum(float(np.square(back[name] - w, dtype=np.float64).sum()) for name, w in matrices.items())
        power = sum(float(np.square(w, dtype=np.float64).sum()) for w in matrices.values())
        figures = {"qp": qp, "bytes": len(stream), "squared": squared, "power": power}
        print(json.dumps({**figures, "encode_seconds": coded - began, "decode_seconds": done - coded}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(qp) for qp in sys.argv[2:]])
