"""Compiled code for CPUs, and the plain-torch definitions that it is held against."""
