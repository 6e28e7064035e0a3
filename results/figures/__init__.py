"""The figures, one module each; `results.plots` draws them."""
