"""A local page on which people check doubtful rows: queue, server, page."""
