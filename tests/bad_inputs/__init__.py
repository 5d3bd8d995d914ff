"""Inputs that a first-class library survives: how each is made, and how what becomes of it is judged."""
