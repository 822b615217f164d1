"""What a user declares: manifests, their validation and their content hash. Pure."""
