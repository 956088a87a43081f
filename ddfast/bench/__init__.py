"""The short benchmark for users, and what it shares with the long ones: floors, ceilings, device timing."""
