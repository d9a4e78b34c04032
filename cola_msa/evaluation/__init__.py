"""An encoder and prepared data to scores, intervals and charts.

Imports every room above.
"""
