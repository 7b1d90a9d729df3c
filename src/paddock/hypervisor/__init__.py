"""How a machine is run. `base` says what every driver must do; the others do it."""
