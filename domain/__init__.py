"""What can happen in governance: events, the states they lead to, and how one follows from the other."""
