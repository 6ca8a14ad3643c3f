"""Numeric command-line arguments; values out of range are usage errors."""

import argparse


def count(text: str) -> int:
    """An integer of at least 1."""
    return _at_least(1, text)


def seed(text: str) -> int:
    """A seed in the range that NumPy and scikit-learn accept: from 0 to 2**32 - 1."""
    number = _at_least(0, text)
    if number >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is out of range: must be below 2**32")
    return number


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is out of range: must be at least {least}")
    return number
