"""What goes wrong while a run trains, in words: rules over the rows of metrics.jsonl."""
