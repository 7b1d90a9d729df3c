"""What a machine is, in the words that the control plane and the nodes share: frozen models, no I/O."""
