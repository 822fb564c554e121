"""The method `rayzer`: cameras and new views from photos in order, learned without poses."""
