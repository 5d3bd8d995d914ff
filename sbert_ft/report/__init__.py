"""Results to one page that a person can send on."""
