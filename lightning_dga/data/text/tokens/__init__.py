"""Documents to token ids, and token ids to sequences of one length."""
