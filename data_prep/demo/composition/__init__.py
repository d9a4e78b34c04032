"""A seed to notes of a song."""
