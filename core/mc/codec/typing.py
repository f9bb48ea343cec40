"""Names for the arrays that the loops take and fill."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]
Counts = NDArray[np.int64]
Scales = NDArray[np.int16]
Ints = NDArray[Any]
