"""The configuration: types, units, loading."""
