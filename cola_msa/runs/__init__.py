"""runs/NAME on disk: config.json, kept encoders, the state that training resumes.

Imports `config`, `records` and `model`.
"""
