"""What may be asked, who may ask it, and when the answer is yes."""
