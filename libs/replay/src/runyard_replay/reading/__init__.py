"""Questions to an event log: reads what folds need, in pages, answers in the messages of the contract."""
