"""Progress: rate, time left after a resume, lines in pipes, the bar, the callback."""

from __future__ import annotations

import io

import pytest

from ddfast.runs.progress import Progress, ProgressEvent, format_event, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_time_left_ignores_what_was_done_before() -> None:
    clock, events = Clock(), []
    progress = Progress(1000, done=900, mode="quiet", callback=events.append, clock=clock)
    assert progress.event().eta is None
    clock.now += 10
    progress.update(20)
    assert events[-1] == ProgressEvent(920, 1000, 2.0, 40.0, 10.0, "")


def test_no_time_left_is_told_too_early() -> None:
    clock = Clock()
    progress = Progress(100, mode="quiet", clock=clock)
    told = []
    for passed, count in ((3, 30), (2, 0)):
        clock.now += passed
        progress.update(count)
        told.append(progress.event().eta is not None)
    slow = Progress(1000, done=500, mode="quiet", clock=clock)
    for passed, count in ((60, 10), (60, 10), (200, 1)):
        clock.now += passed
        slow.update(count)
        told.append(slow.event().eta is not None)
    assert told == [False, True, False, False, True]


def test_rate_is_that_of_the_last_minute() -> None:
    clock = Clock()
    progress = Progress(10_000, mode="quiet", clock=clock)
    for _ in range(100):
        clock.now += 1
        progress.update(50)
    for _ in range(70):
        clock.now += 1
        progress.update(1)
    event = progress.event()
    assert event.rate == pytest.approx(1.0)
    assert event.eta == pytest.approx(10_000 - 5070)


def test_finished_and_empty_work() -> None:
    clock = Clock()
    assert Progress(0, mode="quiet", clock=clock).event().eta == 0.0
    progress = Progress(3, mode="quiet", clock=clock)
    progress.update(3)
    assert progress.event() == ProgressEvent(3, 3, 0.0, 0.0, 0.0)


def test_lines_come_now_and_then_and_at_the_end() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress(100, unit="images", title="score", stream=out, clock=clock) as progress:
        for _ in range(35):
            clock.now += 1
            progress.update(2, "class 3")
        progress.write("a remark")
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert lines.pop(0) == "score: 0/100 images done"
    assert lines[0] == "score: 20/100 images (20 %), 2 images/s, 40 s left, class 3"
    assert lines[3] == "a remark"
    assert lines[4] == "score: 70/100 images (70 %), 2 images/s, 15 s left, class 3"
    assert "\r" not in out.getvalue()


def test_quiet_writes_nothing() -> None:
    out = io.StringIO()
    with Progress(2, mode="quiet", stream=out, interval=0.0) as progress:
        progress.update()
        progress.write("remark")
    assert out.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_terminals_starts_at_what_was_done() -> None:
    out = Terminal()
    with Progress(10, done=6, unit="images", title="score", stream=out) as progress:
        progress.update(4, "last")
        progress.write("remark")
    text = out.getvalue()
    assert "6/10" in text
    assert "10/10" in text
    assert "remark\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (273600, "3 d 04 h")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_line_without_rate_or_total() -> None:
    assert format_event(ProgressEvent(0, 5, 0.0, None, 2.0)) == "0/5 items (0 %), 2 s passed"
    assert format_event(ProgressEvent(0, 0, 0.0, 0.0, 2.0)) == "0/0 items, 2 s passed"


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="mode: got 'loud'"):
        Progress(1, mode="loud")
    with pytest.raises(ValueError, match="done: got 2 of total 1"):
        Progress(1, done=2)


def test_time_of_a_pause_is_not_in_the_rate() -> None:
    clock, events, out = Clock(), [], io.StringIO()
    progress = Progress(100, title="dm", mode="lines", stream=out, callback=events.append, clock=clock)
    for _ in range(50):
        clock.now += 1
        progress.update()
    out.truncate(0)
    with progress.paused():
        for epoch in range(1, 7):
            clock.now += 4
            progress.tell(f"test: epoch {epoch}")
        clock.now += 576
        assert progress.event().rate == pytest.approx(1)
    assert out.getvalue().strip("\0").splitlines() == ["dm: test: epoch 3", "dm: test: epoch 6"]
    clock.now += 1
    progress.update()
    assert (events[-1].rate, events[-1].eta, events[-1].elapsed) == (pytest.approx(1), pytest.approx(49), 651)
    with pytest.raises(KeyError), progress.paused():
        raise KeyError
    clock.now += 1
    progress.update()
    assert events[-1].rate == pytest.approx(1)


def test_a_pause_is_not_in_the_time_of_a_bar() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(10, mode="bar", stream=out, clock=clock)
    before = progress._bar.start_t
    with progress.paused():
        clock.now += 500
        progress.tell("student 1")
    assert progress._bar.start_t == before + 500
    assert "student 1" in out.getvalue()
    progress.close()
