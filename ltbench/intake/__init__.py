"""Intake: tables, folders and lists to image tables, before a picture is opened."""
