"""Where policies come from: one module per kind of source."""
