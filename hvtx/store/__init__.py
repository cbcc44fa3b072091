"""The state store: the only place that speaks SQL."""
