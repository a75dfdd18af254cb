"""A file to items: readers, formats, cleaning, images, redaction."""
