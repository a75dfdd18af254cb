"""Servers for llmcat: launching a model server from a profile."""
