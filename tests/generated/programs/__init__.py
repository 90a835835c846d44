"""What users of generated clients write: the same conversation in each language."""
