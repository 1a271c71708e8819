"""Its place makes the helper modules beside it importable from the tests in every folder."""
