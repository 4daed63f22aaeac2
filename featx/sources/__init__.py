"""The kinds of source, one module each; `featx.sources.load.load_manifest` chooses among them."""
