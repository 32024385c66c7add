"""`facegen app`: a page in the browser to generate, edit and compare faces."""
