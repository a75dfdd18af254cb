"""What talks to servers: retries, and how many requests are in flight."""
