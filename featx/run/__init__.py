"""One extraction: what is asked for, what has to be done, what it will take, and how it goes on."""
