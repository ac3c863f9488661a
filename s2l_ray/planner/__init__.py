"""Planning: model shapes, memory, costs and the search for a placement; its report, drawing and simulation."""
