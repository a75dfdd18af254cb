"""Files of any kind to raw rows: packing, encodings, dialects, JSON, Excel, Parquet."""
