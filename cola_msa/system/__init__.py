"""Files whole or not at all, tables, locks, errors of the user; it knows no music.

Imports nothing of the project, neither TensorFlow nor NumPy.
"""
