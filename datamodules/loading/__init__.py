"""Turns samples into batches: dataset, items, workers, shared memory, the DataLoader."""
