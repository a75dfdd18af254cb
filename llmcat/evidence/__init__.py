"""What each source says of each category, added up."""
