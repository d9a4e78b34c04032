"""Embeddings to a page that shows a collection as a map.

Imports what `collection` imports.
"""
