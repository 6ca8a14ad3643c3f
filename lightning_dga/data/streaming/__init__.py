"""Iterable domains: split into shards over ranks, read in passes, resumed by their own state where they have one."""
