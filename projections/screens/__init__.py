"""What single screens of the control room ask for, beside what the whole station is asked."""
