"""One step of the reversible stack, a class a file."""
