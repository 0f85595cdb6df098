"""What everything is written as: text as token ids, parts as descriptions, tensors in files that are whole."""
