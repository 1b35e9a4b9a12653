"""Three stages of maths: answer, critique, revise."""
