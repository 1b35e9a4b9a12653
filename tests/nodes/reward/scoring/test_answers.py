"""Extraction of answers, and their comparison by math-verify."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.nodes.reward.scoring.answers import extract_answer, marks_asked_for, math_score


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("so <answer> 5 </answer> it is", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("<answer>4</answer> and \\boxed{5} and #### 6", "6"),
        ("#### 6 or \\boxed{5} or <answer>4</answer>", "4"),
        ("<answer>\\boxed{4}</answer>", "\\boxed{4}"),
        ("<answer>4 <answer>5</answer>", "5"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer>5", None),
        ("<answer>5</answer><answer> </answer>", "5"),
        ("<answer></answer> \\boxed{5}", "5"),
        ("\\boxed{4}, better \\boxed{5}", "5"),
        ("#### 3\nso \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed {\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{5}, no: \\boxed{6", "5"),
        ("\\boxed{5} }", "5"),
        ("\\boxed{}", None),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 6\n#### 7\nThat is all.", "7"),
        ("####\n7", "7"),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_that_is_marked(completion: str, expected: str | None) -> None:
    assert extract_answer(completion, None) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("2 + 2? End with #### and the number.", "6"),
        (r"2 + 2? Put the answer in \boxed{}.", "5"),
        ("2 + 2? Answer in <answer> tags.", "4"),
        (r"2 + 2? Use \boxed{} or <answer>.", "4"),
        ("2 + 2?", "4"),
    ],
)
def test_the_mark_that_the_prompt_asks_for_wins(prompt: str, expected: str) -> None:
    completion = "\\boxed{5}\n#### 6\n<answer>4</answer>"
    assert extract_answer(completion, None, marks_asked_for(prompt)) == expected
    assert extract_answer("only \\boxed{7}", None, marks_asked_for(prompt)) == "7"


@pytest.mark.parametrize(
    ("completion", "pattern", "expected"),
    [
        ("Answer: 4\nAnswer: 5", r"Answer: (\d+)", "5"),
        ("4 then 5", r"\d+", "5"),
        ("<answer>4</answer>", r"Answer: (\d+)", None),
        ("Answer: 4 Answer:", r"Answer:\s*(\d+)?", "4"),
    ],
)
def test_a_pattern_replaces_the_rule(completion: str, pattern: str, expected: str | None) -> None:
    assert extract_answer(completion, pattern) == expected


balanced = st.recursive(
    st.text("abc 12+", max_size=4),
    lambda inner: st.lists(inner, max_size=3).map(lambda p: f"{{{''.join(p)}}}"),
)


@given(before=st.text("ab{}\\ ", max_size=8), content=balanced, after=st.text("ab ", max_size=5))
def test_a_balanced_box_is_found_whole(before: str, content: str, after: str) -> None:
    assert extract_answer(f"{before} \\boxed{{{content}}}{after}", None) == (content.strip() or None)


@given(st.text("<answer>/\\boxed{}# 1", max_size=60))
def test_any_text_is_extracted_without_error_and_stripped(completion: str) -> None:
    answer = extract_answer(completion, None)
    assert answer is None or (answer and answer == answer.strip() and answer in completion)


def test_a_degenerate_completion_is_read_in_linear_time() -> None:
    started = time.monotonic()
    assert extract_answer("\\boxed{" * 50_000 + "<answer>" * 50_000, None) is None
    assert time.monotonic() - started < 2.0


RIGHT = [
    ("5", "5"),
    ("1,234", "1234"),
    ("1234", "1,234"),
    ("1 234 567", "1234567"),
    ("1{,}234", "1234"),
    ("\\$1\\,234", "1234"),
    ("$5", "5"),
    ("\\$5", "5"),
    ("-$4", "-4"),
    ("$-4", "-4"),
    ("\N{MINUS SIGN}5", "-5"),
    ("$1,234.50", "1234.5"),
    ("5.0", "5"),
    ("5.", "5"),
    ("1e3", "1000"),
    ("$72$", "72"),
    ("**72**", "72"),
    ("`72`.", "72"),
    ("18%", "18"),
    ("18\\%", "18"),
    ("5 apples", "5"),
    ("5", "5 apples"),
    ("12 cm^2", "12"),
    ("5 km/h", "5"),
    ("$3 per day", "3"),
    ("5\\text{ apples}", "5"),
    ("90^\\circ", "90"),
    ("\\frac{1}{2}", "0.5"),
    ("\\frac12", "1/2"),
    ("\\dfrac{6}{8}", "\\frac{3}{4}"),
    ("3\\frac{1}{2}", "3.5"),
    ("2\\sqrt{2}", "\\sqrt{8}"),
    ("x^2+1", "1+x^2"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x = 5", "5"),
    ("5 + 5 = 10", "10"),
    ("(1,2)", "(1, 2)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\boxed{7}", "7"),
    ("The answer is 5.", "5"),
    ("The total is $3 + 4 = 7$", "7"),
    ("Evelyn", "\\text{Evelyn}"),
    ("yes", "Yes"),
    ("\\text{(C)}", "(C)"),
    ("72", "48 / 2 = 24\n48 + 24 = 72\n#### 72"),
    ("\\frac{1}{2}", "We see that it is $\\boxed{\\frac12}$."),
]

WRONG = [
    ("6", "5"),
    ("-3", "3"),
    ("12", "1,2"),
    ("1.2", "12"),
    ("5", "50"),
    ("3.14", "\\pi"),
    ("0.333", "\\frac{1}{3}"),
    ("3 or 4", "4"),
    ("3, 4", "4"),
    ("1 2 3 4", "4"),
    ("5x", "5"),
    ("x+5", "5"),
    ("2 pi", "2"),
    ("(2,1)", "(1,2)"),
    ("no", "on the table"),
    ("saw", "was"),
    ("yes", "No"),
    ("cats", "5"),
    ("12345678901234567890", "12345678901234567891"),
]


@pytest.mark.parametrize(("given", "reference"), RIGHT)
def test_a_right_answer_is_paid(given: str, reference: str) -> None:
    assert math_score(f"So: <answer>{given}</answer>", reference) == {"format": 1.0, "correct": 1.0}


@pytest.mark.parametrize(("given", "reference"), WRONG)
def test_a_wrong_answer_is_not_paid(given: str, reference: str) -> None:
    assert math_score(f"So: <answer>{given}</answer>", reference) == {"format": 1.0, "correct": 0.0}


@pytest.mark.parametrize(
    ("completion", "reference", "correct"),
    [
        ("The answer is 5 apples", "5", 1.0),
        ("She has 1,234 eggs.", "1234", 1.0),
        ("so it is $\\frac{1}{2}$.", "0.5", 1.0),
        ("First 2 + 3 = 5, and then 5 + 1 = 6. So she has 6.", "6", 1.0),
        ("First 2 + 3 = 5, and then 5 + 1 = 6. So she has 6.", "5", 0.0),
        ("We find $x + 2 = 7$ and so $x = 5$, as it was said in line 3.", "5", 1.0),
        ("That makes 3/4 of the cake.", "0.75", 1.0),
        ("The capital is Paris.", "Paris", 1.0),
        ("It must be (B).", "B", 1.0),
        ("It was on May 1, 2024.", "2024-05-01", 0.0),
        ("The day is May 1, 2024.", "2024-05-01", 1.0),
        ("I do not know", "5", 0.0),
        ("<answer></answer>", "5", 0.0),
        ("", "5", 0.0),
    ],
)
def test_without_an_answer_the_whole_completion_is_judged(completion: str, reference: str, correct: float) -> None:
    assert math_score(completion, reference) == {"format": 0.0, "correct": correct}


def test_only_the_last_of_several_answers_counts() -> None:
    assert math_score("\\boxed{5} or \\boxed{6}", "5")["correct"] == 0.0
    assert math_score("\\boxed{6} or \\boxed{5}", "5")["correct"] == 1.0


def test_the_pattern_chooses_the_answer() -> None:
    scores = math_score("Final: 5 (not 6)", "5", pattern=r"Final: (\S+)")
    assert scores == {"format": 1.0, "correct": 1.0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an alarm in a callback is dropped
def test_a_blank_reference_and_a_cut_comparison_cannot_be_judged() -> None:
    assert math.isnan(math_score("\\boxed{5}", " ")["correct"])
    slow = r"\boxed{\prod_{k=1}^{800}\sum_{j=1}^{900}\frac{\sin(k j)}{\cos(k + j)}}"
    assert math.isnan(math_score(slow, "5", limit_s=1)["correct"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_python_drops_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class InCallback:
        def __del__(self) -> None:
            _work(1.5)  # what the alarm raises here is dropped

    def parse(*_: object, **__: object) -> None:
        InCallback()
        _work(60)

    def _work(seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            pass

    monkeypatch.setattr("math_verify.parse", parse)
    started = time.monotonic()
    assert math.isnan(math_score(r"\boxed{\sqrt{2}}", r"\sqrt{3}", limit_s=1)["correct"])
    assert time.monotonic() - started < 30


def test_the_limit_is_for_all_parts_of_an_answer_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> list[object]:
        time.sleep(0.4)
        return []

    monkeypatch.setattr("math_verify.parse", parse)
    answer, reference = r"\boxed{\sqrt{2}, \sqrt{3}, \sqrt{5}}", r"\sqrt{3}, \sqrt{5}, \sqrt{7}"
    assert math.isnan(math_score(answer, reference, limit_s=1)["correct"])
