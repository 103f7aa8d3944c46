"""What names a person: sealed on its way into the yard, opened on its way out, gone with its key."""
