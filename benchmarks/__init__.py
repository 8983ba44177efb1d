"""Measurements, each a module with its own help: `python -m benchmarks.NAME --help`.

One thread of linear algebra, as in every process of the product: sums in another order decide between plans of equal
cost, and a day played here is to be the day that the command line plays.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
