"""**Departure:** cameras of small VGGTs from matches; the published network has no such part."""
