"""A MIDI control surface as the operator's desk: what is pressed becomes commands, lights show what is so."""
