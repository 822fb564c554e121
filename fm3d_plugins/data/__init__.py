"""Data sets of many scenes: their files, their photos at a network's size, which views to take."""
