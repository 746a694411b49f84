"""What a batch cost and what training waited for."""
