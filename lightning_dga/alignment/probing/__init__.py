"""Extra passes through the user's model that leave no trace in it: the loss, the probe batches, what is saved and restored."""
