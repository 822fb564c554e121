"""The method `lvsm`: new views from posed photos, without a 3D representation."""
