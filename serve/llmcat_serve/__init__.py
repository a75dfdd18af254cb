"""Servers for llmcat: a model server from a profile, and the page on which people review."""
