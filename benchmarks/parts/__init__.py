"""What several scripts share; it imports no other room."""
