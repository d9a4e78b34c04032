"""Embeddings and heads to labels: of files, of waveforms, and from labels of one's own.

Imports `collection`, `config`, `evaluation`, `hub`, `system` and `values`.
"""
