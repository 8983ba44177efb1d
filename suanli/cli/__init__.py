"""The command line.

Linear algebra runs on one thread in every process started from here: our matrices are small, and threads that wait for
each other only take the processor from the other processes of the same day.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
