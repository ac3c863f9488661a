"""Who runs it where: each file is one kind of process, a thin shell over a plain class of s2l_ray."""
