"""What can be typed: own keys, the words of conf/, and the door from a node to an object."""
