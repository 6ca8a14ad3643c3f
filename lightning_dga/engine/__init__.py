"""The loop that measures alignments, reweights and sets the weights, and its state; it knows no Trainer."""
