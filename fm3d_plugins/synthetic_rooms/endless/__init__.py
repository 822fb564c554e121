"""Rooms without end, for training: drawn and rendered fast from nothing but a number."""
