"""Planning: values in, values out. Feasibility, queue order, rounds, horizon plans, forecast, learning, explanation."""
