"""Connects the loaders to Lightning, which no other package imports: VOCDataModule, Monitor."""
