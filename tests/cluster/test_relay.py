"""What workers print reaches the output as it is; what Ray prints does not."""

import ray._private.worker

from ddpm_core.cluster import relay


def said(capsys, *lines, **more):
    data = {"pid": 7, "ip": "10.0.0.1", "localhost": "10.0.0.1", "is_err": False, **more}
    relay._relay({**data, "lines": list(lines)}, ignore_prefix=False)
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_lines_of_ours_are_printed_as_they_are(capsys):
    """Catches colours and process numbers in a pipe, and equal lines that are folded to one."""
    assert said(capsys, "train  1/2 steps", "same", "same") == (
        "train  1/2 steps\nsame\nsame\n",
        "",
    )
    assert said(capsys, "warning: slow", is_err=True) == ("", "warning: slow\n")


def test_an_error_of_another_node_says_which(capsys):
    """Catches a complaint about a disk, and nobody knows of which machine."""
    assert said(capsys, "no space", is_err=True, ip="10.0.0.2") == ("", "10.0.0.2: no space\n")


def test_ray_s_own_lines_are_left_out(capsys):
    """Catches C++ places and advice about the cluster in the middle of a stage's output."""
    cplusplus = "[2026-11-29 23:03:56,336 W 29606 29606] gcs_client.cc:210: Failed to get"
    assert said(capsys, cplusplus, '{"__magic_token__": "__ray_tqdm_magic_token__"}') == ("", "")
    assert said(capsys, "A worker died or was killed", pid="raylet") == ("", "")
    assert said(capsys, "Tip: use `ray status`", pid="autoscaler") == ("", "")
    assert said(capsys, "[2026-01-01 of ours") == ("[2026-01-01 of ours\n", "")


def test_torch_s_complaint_of_addresses_without_names_is_left_out(capsys):
    """Catches two lines of C++ at the start of every training over two machines without DNS."""
    nameless = "[W1130 01:59:08.368256001 socket.cpp:207] [c10d] The hostname of the client socket"
    nameless += " cannot be retrieved. err=-3"
    assert said(capsys, nameless, is_err=True) == ("", "")
    other = "[W1130 01:59:08.368256001 socket.cpp:207] [c10d] The client socket has timed out"
    assert said(capsys, other, is_err=True) == ("", other + "\n")


def test_it_stands_where_ray_looks_for_it(monkeypatch):
    """Catches a release of Ray that prints by another function."""
    assert callable(ray._private.worker.print_to_stdstream)
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", None)
    relay.relay_worker_lines()
    assert ray._private.worker.print_to_stdstream is relay._relay
