"""Global alignment: the pointmaps of many pairs become cameras and depth in one world."""
