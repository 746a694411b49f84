"""What can be known or made of a picture without torch."""
