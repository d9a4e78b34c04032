"""Pretrained folders handed on: fetched by address or name, and listed by others.

Imports what `hub` imports.
"""
