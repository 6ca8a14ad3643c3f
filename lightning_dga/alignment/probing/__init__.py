"""Extra passes through the user's model that leave no trace in it."""
