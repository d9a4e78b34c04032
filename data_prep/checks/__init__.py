"""A download or a prepared folder to complaints and pictures.

Imports `pipeline`.
"""
