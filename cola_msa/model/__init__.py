"""Windows to embeddings, pairs to loss and gradients: the Keras model.

Imports `config`.
"""
