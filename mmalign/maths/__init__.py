"""Pure tensor mathematics that knows no model: paths between data and noise, and steps along them."""
