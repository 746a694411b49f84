"""VOCDataModule and Monitor: the only modules that know Lightning."""
