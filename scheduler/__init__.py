"""The service: decides, remembers and answers; solves through `solvers`, speaks through `suanli`."""
