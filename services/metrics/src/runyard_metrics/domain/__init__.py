"""Pure rules: which batches may be appended, which lines are new, how series are thinned."""
