"""Pairs to a run: loop, update, devices, workers.

Imports every room above but `audio`.
"""
