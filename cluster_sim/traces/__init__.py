"""Readers of recorded input: each turns a file into plain records, or says everything that is wrong with it at once."""
