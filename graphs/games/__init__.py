"""Games without text: boards, cards and control."""
