"""The main job: a source of images becomes a cache of features, reusing every row that exists."""
