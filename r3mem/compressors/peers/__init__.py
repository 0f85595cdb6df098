"""Published methods, a class a file."""
