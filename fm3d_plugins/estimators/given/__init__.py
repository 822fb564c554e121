"""Cameras that another program found."""
