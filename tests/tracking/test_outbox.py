import math
import re
import threading
import time

import pytest

from ddpm_core.tracking import outbox
from ddpm_core.tracking.outbox import Outbox
from ddpm_core.tracking.receiver import Measurement, Refused, Unreachable


class Server:
    """A server in memory; `fail` says for each call whether it is lost before or after the work."""

    def __init__(self):
        self.points: list[Measurement] = []
        self.fail: list[str] = []
        self.up = threading.Event()
        self.up.set()
        self.calls = 0
        self.threads: set[int] = set()

    def connect(self, _watch):
        self.last_steps()
        return self

    def last_steps(self):
        self._answer()
        last: dict[str, int] = {}
        for one in self.points:
            last[one.key] = max(one.step, last.get(one.key, -1))
        return last

    def step_at(self, timestamp_ms):
        return timestamp_ms // 1000

    def send(self, measurements):
        assert len(measurements) <= 1000
        fault = self.fail.pop(0) if self.fail else ""
        if fault == "before":
            raise Unreachable("lost on the way")
        self._answer()
        self.points += measurements
        if fault == "after":
            raise Unreachable("its reply was lost")

    def steps(self, key="loss"):
        return [one.step for one in self.points if one.key == key]

    def _answer(self):
        self.calls += 1
        self.threads.add(threading.get_ident())
        if not self.up.is_set():
            raise Unreachable("down")


@pytest.fixture
def server():
    return Server()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(outbox, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(outbox, "_LONGEST_WAIT_S", 0.05)


def make_outbox(server, **limits):
    return Outbox(server.connect, server="MLflow", remedy="`again` sends it", **limits)


def curve(*steps):
    return [{"step": step, "loss": 1 / step, "grad_norm": 2.0} for step in steps]


def test_a_curve_handed_in_again_after_a_resume_adds_only_what_is_missing(server):
    """Catches logging what the first attempt logged, and one last step for all keys: here the
    attempt before was killed with `grad_norm` behind `loss`."""
    server.points = [Measurement("loss", 0.5, 50, 0), Measurement("loss", 0.4, 100, 0)]
    server.points += [Measurement("grad_norm", 2.0, 50, 0)]
    box = make_outbox(server)
    box.put_curve(curve(50, 100, 150))
    box.put_curve(curve(50, 100, 150, 200))
    assert box.close(10)
    assert server.steps("loss") == [50, 100, 150, 200]
    assert server.steps("grad_norm") == [50, 100, 150, 200]


def test_an_outage_leaves_no_gap_and_no_second_point(server, capsys):
    """Catches giving up after a failure, and sending again what arrived though its reply was
    lost."""
    server.fail = ["before", "after", "before", "after"]
    box = make_outbox(server)
    for step in range(50, 550, 50):
        box.put_curve(curve(step))
        time.sleep(0.005)
    assert box.close(10)
    assert server.steps() == list(range(50, 550, 50))
    assert capsys.readouterr().err.count("does not answer") <= 2


def test_a_dead_server_is_given_up_and_close_says_what_is_missing(server, capsys):
    """Catches waiting for the server in the caller's thread or at the end (for an hour here), and a
    silent loss."""
    server.up.clear()
    box = make_outbox(server, silence_s=0.1)
    box.put_curve(curve(*range(50, 50_000, 50)))
    box.put_errand("grid.png", lambda _: None)
    assert not box.close()
    assert threading.get_ident() not in server.threads
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "MLflow does not answer (down); going on, and trying again"
    assert lines[1:] == [
        "warning: MLflow did not get the points of steps 50 to 49950, grid.png (down); `again` "
        "sends it"
    ]


@pytest.mark.parametrize("when", ["connecting", "sending", "uploading"])
def test_a_silent_server_is_given_up(server, when, capsys):
    """Catches a close that waits for ever where the server takes a request and never answers: no
    failure shows that."""
    never = threading.Event()

    def wait(*_):
        never.wait(3600)
        raise Unreachable("timed out at last")

    if when == "connecting":
        server.connect = wait
    elif when == "sending":
        server.send = wait
    box = make_outbox(server, silence_s=0.1)
    box.put_curve(curve(50))
    box.put_errand("grid.png", wait)
    assert not box.close()
    assert "grid.png (no answer); `again` sends it" in capsys.readouterr().err
    never.set()


def test_a_slow_server_that_answers_is_waited_for(server):
    """Catches giving up a server that answers each request, if late: all of its answers together
    take longer here than the silence that is allowed."""
    watches = []

    def connect(watch):
        watches.append(watch)
        return server

    def slowly(_):
        for _ in range(20):
            time.sleep(0.05)
            watches[0].heard()

    server.connect = connect
    box = make_outbox(server, silence_s=0.5)
    box.put_errand("model", slowly)
    assert box.close()


def test_nothing_to_send_is_nothing_to_wait_for(server):
    """Catches a close that asks for an answer although nothing was queued."""
    server.connect = lambda _: threading.Event().wait(3600)
    assert make_outbox(server, silence_s=3600).close()


def test_what_was_kept_through_an_outage_arrives_later_and_once(server):
    """Catches the next attempt that sends only what is new, or all of it twice."""
    server.up.clear()
    box = make_outbox(server, silence_s=0.05)
    box.put_curve(curve(50, 100))
    assert not box.close(0.1)
    server.up.set()
    box = make_outbox(server)
    box.put_curve(curve(50, 100, 150))
    assert box.close(10)
    assert server.steps() == [50, 100, 150]


def test_two_attempts_at_once_send_each_point_once(server):
    """Catches asking for the last steps only at the beginning: another attempt at the same run
    sends meanwhile."""
    one, other = make_outbox(server), make_outbox(server)
    for step in range(50, 550, 50):
        for box in (one, other):
            box.put_curve(curve(step))
            for _ in range(500):
                if step in server.steps("grad_norm"):
                    break
                time.sleep(0.01)
    assert one.close(10)
    assert other.close(10)
    assert server.steps() == list(range(50, 550, 50))


def test_a_server_that_comes_back_while_closing_gets_everything(server, capsys):
    """Catches a close that does not try again."""
    server.up.clear()
    box = make_outbox(server)
    box.put_curve(curve(50, 100))
    threading.Timer(0.2, server.up.set).start()
    assert box.close(10)
    assert server.steps() == [50, 100]
    assert "answers again" in capsys.readouterr().err


def test_a_full_queue_keeps_the_beginning_and_is_filled_up_by_the_curve(server, capsys):
    """Catches dropping from the middle: a later point would make the hole permanent, because
    everything at or below the last step is taken for sent."""
    server.up.clear()
    box = make_outbox(server, max_points=3)
    box.put_curve(curve(10, 20, 30, 40))
    server.up.set()
    for _ in range(500):
        if server.steps() == [10, 20, 30]:
            break
        time.sleep(0.01)
    box.put_curve(curve(50))
    time.sleep(0.05)
    assert server.steps() == [10, 20, 30]
    box.put_curve(curve(10, 20, 30))
    time.sleep(0.1)
    box.put_curve(curve(40, 50))
    assert box.close(10)
    assert server.steps() == [10, 20, 30, 40, 50]
    server.up.clear()
    box = make_outbox(server, max_points=1, silence_s=0.1)
    box.put_curve(curve(60, 70))
    assert not box.close(0.1)
    assert "the points of steps 60 to 60, the points from step 70 on" in capsys.readouterr().err


def test_what_is_not_finite_is_left_out_and_counted(server, capsys):
    """Catches NaN on its way to MLflow, which stores it as 0, and dropping its neighbours."""
    box = make_outbox(server)
    box.put_curve([{"step": 1, "loss": math.nan, "grad_norm": math.inf, "learning_rate": 0.1}])
    assert box.close(10)
    assert [(one.key, one.value) for one in server.points] == [("learning_rate", 0.1)]
    assert "2 values were not finite" in capsys.readouterr().err


def test_a_long_curve_goes_in_few_requests(server):
    """Catches a request for each point: 8,000 of them after a resume of the paper's run."""
    box = make_outbox(server)
    box.put_curve(curve(*range(1, 2001)))
    assert box.close(10)
    assert server.steps() == list(range(1, 2001))
    assert server.calls <= 1 + 4 + 4


def test_a_file_that_does_not_get_through_holds_up_nothing(server):
    """Catches a queue blocked by one upload, whose storage may be another server."""

    def upload(_):
        raise Unreachable("the file storage is down")

    box = make_outbox(server)
    box.put_errand("grid.png", upload)
    box.put_curve(curve(50))
    assert not box.close(0.3)
    assert server.steps() == [50]


def test_what_is_refused_is_named_and_left_out(server, capsys):
    """Catches trying for ever what the server will never take."""

    def upload(_):
        raise Refused("413 too large")

    box = make_outbox(server)
    box.put_errand("grid.png", upload)
    box.put_curve(curve(50))
    assert not box.close(10)
    assert server.steps() == [50]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: MLflow did not get grid.png: it refused, 413 too large"], (
        "not `again`"
    )


class Hour:
    """A clock by which each look at the thread takes half a minute."""

    def __init__(self):
        self.now, self.time_ns, self.sleep = 0.0, time.time_ns, time.sleep

    def monotonic(self):
        if threading.current_thread() is threading.main_thread():
            self.now += 30
        return self.now


def test_what_is_on_its_way_is_waited_for_however_long_it_takes(server, monkeypatch, capsys):
    """Catches 30 s for a model of any size, which is then missing in the registry; and an hour
    without a line: the upload and the work before it are each longer than the silence allowed."""
    watches, go_on = [], [threading.Event(), threading.Event()]
    monkeypatch.setattr(outbox, "time", Hour())
    server.connect = lambda watch: watches.append(watch) or server

    def upload(_):
        watches[0].allow(math.inf)  # packs it
        go_on[0].wait()
        watches[0].allow(3600)  # and sends it
        go_on[1].wait()

    box = make_outbox(server, silence_s=0.1)
    box.put_errand("the model of digits (143 MB)", upload)
    for event in go_on:
        threading.Timer(0.3, event.set).start()
    assert box.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert re.fullmatch(
        r"MLflow: sending the model of digits \(143 MB\), [0-9]+ s so far", lines[0]
    )


def test_a_busy_server_is_told_from_one_that_is_away(server, monkeypatch, capsys):
    """Catches a model given up because one request of a server that checks passwords on busy cores
    took longer than a dead one is given; and one that answers and then fails, for ever."""
    monkeypatch.setattr(outbox, "SLOW_S", 0.6)
    watches, tries = [], []
    server.connect = lambda watch: watches.append(watch) or server

    def upload(_):
        tries.append(1)
        watches[0].heard()
        if len(tries) < 3:
            time.sleep(0.2)
            raise Unreachable("timed out")
        watches[0].allow(3600)  # an upload, longer than any silence
        time.sleep(0.9)

    box = make_outbox(server, silence_s=0.1)
    box.put_errand("model", upload)
    assert box.close()
    assert len(tries) == 3

    def fail(_):
        watches[1].heard()
        raise Unreachable("its storage is down")

    box = make_outbox(server, silence_s=0.1)
    box.put_errand("model", fail)
    assert not box.close()
    assert "did not get model (its storage is down)" in capsys.readouterr().err


def test_who_no_longer_waits_is_told_what_is_missing(server, monkeypatch, capsys):
    """Catches Ctrl-C after which nothing says that the model is not there."""
    never = threading.Event()
    box = make_outbox(server, silence_s=3600)
    box.put_errand("model", lambda _: never.wait(3600))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(box._thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        box.close()
    assert "MLflow did not get model; `again` sends it" in capsys.readouterr().err
    never.set()


def test_what_is_measured_by_the_clock_gets_growing_steps(server, monkeypatch):
    """Catches samples that start again at step 0 in each attempt, and two at one step."""
    server.points = [Measurement("system/cpu", 1.0, 7, 7000)]
    box = make_outbox(server)
    for now_ms in (7900, 8000, 8400, 8999, 9000):
        monkeypatch.setattr(outbox.time, "time_ns", lambda now_ms=now_ms: now_ms * 1_000_000)
        box.put_sample({"system/cpu": 50.0})
    assert box.close(10)
    assert server.steps("system/cpu") == [7, 8, 9]
