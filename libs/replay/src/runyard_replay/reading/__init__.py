"""Questions to an event log: reads what a fold needs, in bounded pages, and answers with the contract's messages."""
