"""runs/NAME on disk: config.json, kept encoders, the state that training resumes.

The network that all of them are about is built here alone: `network`.

Imports `config`, `records`, `model` and `frameworks`.
"""
