"""Iterable domains: sharded over ranks, read in passes, and resumed from their own state if they have one."""
