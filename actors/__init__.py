"""Ray actors, one file per kind of process: thin shells over plain classes of s2l_ray, launched on a plan's slots."""
