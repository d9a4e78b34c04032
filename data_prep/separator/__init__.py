"""Stems to a trained Open-Unmix folder and its report.

Imports `datasets` and `stems`.
"""
