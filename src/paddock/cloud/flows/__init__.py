"""What happens next: one file per thing that lives."""
