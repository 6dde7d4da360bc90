"""What can be typed: the keys of trainlab itself, the words of conf/, and the one function that
turns a config node into an object."""
