"""Your categories: the tree, and the files it is read from."""
