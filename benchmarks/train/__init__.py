"""Training of students."""
