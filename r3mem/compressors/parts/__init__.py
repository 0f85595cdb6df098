"""What several compressors are made of."""
