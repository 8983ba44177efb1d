"""The command line.

Linear algebra runs on one thread in every process started from here: our matrices are small, and threads that wait for
each other only take the processor from the other processes of the same day. gRPC's own remarks on connections that end
stay out of stderr: what they mean for a command it says itself.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
