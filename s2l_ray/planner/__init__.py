"""What-if: model shapes, memory, costs and the search that make a plan; its report, drawing and simulation."""
