"""Between the cores and the coordination store: carries out, decides nothing."""
