"""Tools: functions that language models call in their turns."""
