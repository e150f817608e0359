"""What a head needs on the Hub: its card."""
