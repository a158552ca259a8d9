"""Grids: methods x data sets x protocols x settings x seeds, planned whole and run cell by cell."""
