"""What tests share: sources to convert, ways to break things, ways to watch."""
