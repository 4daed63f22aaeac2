"""The kinds of source, one module each; `featx.manifest.load_manifest` chooses among them."""
