"""The control plane: what is true (models) and what happens next (flows)."""
