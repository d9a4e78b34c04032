"""Chains of our own commands: the demo, the paper's tables. Never imports training."""
