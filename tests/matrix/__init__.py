"""The tests that need real servers, against the packages of each Debian in turn."""
