"""The artifact service: files known by their content, kept in an S3 store."""
