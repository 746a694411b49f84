"""Samples become batches: datasets, worker processes, shared memory, the DataLoader."""
