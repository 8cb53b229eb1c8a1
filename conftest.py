"""For all tests of the project: pytest's own fixture for running pytest inside pytest."""

pytest_plugins = ["pytester"]
