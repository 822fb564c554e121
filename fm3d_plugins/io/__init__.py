"""Files of other programs: COLMAP models, nerfstudio's transforms.json, PLY point clouds."""
