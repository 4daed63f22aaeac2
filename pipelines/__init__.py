"""What `make features` and `make fit-svm` run: recipes that call featx."""
