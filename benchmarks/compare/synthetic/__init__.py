"""Tasks that are drawn, on a small language model that is trained from nothing."""
