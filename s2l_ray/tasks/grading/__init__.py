"""Reading final answers and comparing what they mean."""
