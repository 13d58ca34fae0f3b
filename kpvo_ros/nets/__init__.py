"""Networks and their weights files. No training, no files other than checkpoint's."""
