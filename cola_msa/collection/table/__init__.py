"""A file of embeddings, written, checked and read, in any of its formats.

Imports what `collection` imports.
"""
