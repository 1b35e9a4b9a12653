"""Games in text: language models from random weights in the seats of games of OpenSpiel."""
