"""One `MethodSpecification` per method."""
