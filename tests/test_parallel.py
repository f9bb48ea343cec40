"""Loops that are called for the first time by several threads at once."""

from __future__ import annotations

from conftest import program

# numba asks each class that it knows a type for whether an argument is one of its kind. Here the last of them takes
# its time to answer, until another thread has called a loop.
FIRST_CALLS = """
import threading
import numpy as np
from numba import typeof
from numba.core.typing.typeof import typeof_impl
from mc.lossy.loops import squares

asking, ran = threading.Event(), threading.Event()

class Slow(type):
    def __subclasscheck__(cls, other):
        if threading.current_thread() is not threading.main_thread():
            asking.set()
            ran.wait(60)
        return False

class Last(metaclass=Slow):
    pass

typeof_impl.register(Last)(lambda value, context: None)
failed = []

def ask():
    try:
        typeof(np.uint32(0))
    except RuntimeError as error:
        failed.append(error)

thread = threading.Thread(target=ask)
thread.start()
assert asking.wait(60)
squares(np.zeros(1, np.float32), np.zeros(1, np.float32))
ran.set()
thread.join()
assert not failed, failed
"""


def test_a_first_loop_changes_nothing_that_other_threads_look_at() -> None:
    done = program(FIRST_CALLS)
    assert done.returncode == 0, done.stderr


LOADED = """
import sys
import numpy as np
from mc.lossy.loops import squares

before = set(sys.modules)
squares(np.zeros(1, np.float32), np.zeros(1, np.float32))
print(*(name for name in sys.modules if name not in before and name.startswith("numpy")))
"""


def test_a_first_loop_loads_nothing_of_numpy() -> None:  # its tables may be changed meanwhile: ml_dtypes does that
    done = program(LOADED)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr + done.stdout
