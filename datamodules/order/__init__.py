"""Pure arithmetic: the order of samples, who reads which, where a run stands."""
