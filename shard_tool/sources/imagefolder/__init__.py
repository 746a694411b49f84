"""Reads folders of classes: pictures whose folder says what they show."""
