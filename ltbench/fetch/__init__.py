"""Downloads: files from mirrors, checked and unpacked."""
