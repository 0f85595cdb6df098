"""Tasks on real text, with a real language model."""
