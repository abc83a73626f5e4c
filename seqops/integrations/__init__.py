"""Ours in the place of other libraries' parts, one module a library; none is imported before it is asked for."""
