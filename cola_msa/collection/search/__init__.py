"""Embeddings to an index on disk, and questions to it: the nearest clips.

Imports what `collection` imports.
"""
