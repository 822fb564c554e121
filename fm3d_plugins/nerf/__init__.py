"""Neural radiance fields: the paper's own model and a fast one."""
