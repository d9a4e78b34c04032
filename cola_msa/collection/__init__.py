"""Many files to a table of embeddings, to neighbours, a map and matches.

Imports `audio`, `hub`, `records` and `system`.
"""
