"""What Aureus costs, always said as a ratio to something everybody can run on the same machine in the same minute."""
