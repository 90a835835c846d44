"""The habits of the code, and what the README says of it, held as tests."""
