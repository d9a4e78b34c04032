"""A framework of contrastive learning: its network, its loss, its augmentation.

Imports `config`, `records`, `pairs` and `model`.
"""
