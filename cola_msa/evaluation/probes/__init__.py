"""Embeddings and labels to trained heads.

Imports what `evaluation` imports.
"""
