"""Runs and results to tables, figures and a page, and to the commands missing."""
