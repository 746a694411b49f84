"""Connects the loaders to Lightning: VOCDataModule and Monitor. No other room imports it."""
