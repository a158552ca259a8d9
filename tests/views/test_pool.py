"""Views by worker processes: the same bytes for any number of them, and never a hang."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from ltbench.errors import RunFailedError, UsageError
from ltbench.views.pool import DEPTH, KEPT, HostPictures
from ltbench.views.view import View, ViewSpec

sys.path.append(str(Path(__file__).parent))  # workers look here too

from made_pictures import FailingImages, HomelyImages, RaggedImages, lesion

HERE = Path(__file__).parent

VIEWS = {
    name: View(TypeAdapter(ViewSpec).validate_python(steps))
    for name, steps in {
        "a": [{"resize": {"size": 48}}, {"hflip": {}}, {"color_jitter": {"contrast": 0.4}}],
        "b": [
            {"random_resized_crop": {"size": 40}},
            {"rotation": {"degrees": 90}},
            {"color_jitter": {"saturation": 0.4, "hue": 0.1}},
            {"affine": {"degrees": 5, "scale": [0.9, 1.0]}},
        ],
        "ragged": [{"resize": {"size": 32, "short_side": True}}],
    }.items()
}
COUNT = 20
REFUSED, BROKEN = COUNT, COUNT + 1  # two pictures that cannot be read


def sizes(number):
    return (50 + number % 3, 40) if number % 2 else (36, 45)


@pytest.fixture(scope="module")
def images():
    pictures = [lesion(number, *sizes(number)) for number in range(COUNT + 2)]
    return FailingImages(
        pictures,
        errors={
            REFUSED: UsageError("Picture 20 is refused."),
            BROKEN: ZeroDivisionError("picture 21 is broken"),
        },
    )


@pytest.fixture(scope="module")
def pools(images):
    """One a number of workers. They start together; tests that end one come last."""
    made = {n: HostPictures(images, VIEWS, seed=2**40 + 1, workers=n) for n in (0, 1, 2, 3)}
    yield made
    for pool in made.values():
        pool.close()


def submit(pool, positions=range(COUNT), names=("a", "b"), epoch=0):
    positions = np.array(positions)
    return pool.submit(positions, positions + 100, names, epoch=epoch, words=[7, 8][: len(names)])


def by_hand(images, name, word, positions, epoch=0):
    """By the definition, a picture at a time."""
    from ltbench.views.host import HostView

    host, rows = HostView(VIEWS[name], images), []
    for position in positions:
        u = VIEWS[name].draw(
            2**40 + 1, stream=word, epoch=epoch, indices=np.array([position + 100])
        )
        out = np.empty((1, *host.output_sizes[position], 3), np.uint8)
        host.render(np.array([position]), u, out)
        rows.append(out[0])
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("positions", [range(COUNT), [3], [5, 4, 4, 17], [9, 0]])
def test_any_number_of_workers_makes_the_same_views(pools, images, workers, positions):
    a, b = submit(pools[workers], positions, epoch=3)()
    assert torch.equal(a, by_hand(images, "a", 7, positions, epoch=3))
    assert torch.equal(b, by_hand(images, "b", 8, positions, epoch=3))
    for batch, side in ((a, 48), (b, 40)):
        assert batch.dtype == torch.uint8
        assert batch.shape == (len(positions), 3, side, side)
        assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_jobs_ahead_come_in_order_and_stay_for_a_while(pools, images, workers):
    pool = pools[workers]
    assert pool.depth == (DEPTH if workers else 0)
    ready = [submit(pool, epoch=epoch) for epoch in range(DEPTH)]
    expected = [by_hand(images, "a", 7, range(COUNT), epoch) for epoch in range(DEPTH + 4)]
    last = []
    for epoch in range(DEPTH + 4):
        last = [*last, ready.pop(0)()[0]][-KEPT:]
        if epoch < 4:
            ready.append(submit(pool, epoch=DEPTH + epoch))
        for batch, wanted in zip(reversed(last), reversed(expected[: epoch + 1]), strict=False):
            assert torch.equal(batch, wanted)


def test_larger_and_smaller_batches_share_the_ring(pools, images):
    for positions in ([1], range(COUNT), [2, 3], range(10)):
        (a,) = submit(pools[2], positions, names=("a",))()
        assert torch.equal(a, by_hand(images, "a", 7, positions))


@pytest.mark.parametrize("handed_out", [0, 1, KEPT])
def test_too_many_jobs_ahead_are_refused_and_forgotten_ones_are_not_counted(images, handed_out):
    pool = HostPictures(images, VIEWS, seed=0, workers=1)
    for _ in range(handed_out):
        submit(pool, [0])()
    ready = [submit(pool, [0]) for _ in range(DEPTH)]
    with pytest.raises(RuntimeError, match="6 batches were asked for"):
        submit(pool, [0])
    del ready
    gc.collect()
    for _ in range(2 * DEPTH):
        submit(pool, [0])
    assert len(submit(pool, [0])()) == 2
    pool.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_views_of_several_sizes_are_told_apart(pools, workers):
    (batch,) = submit(pools[workers], [0, 2, 4], names=("ragged",))()
    assert batch.shape == (3, 3, 32, 40)
    with pytest.raises(UsageError, match="views have one size"):
        submit(pools[workers], [0, 1], names=("ragged",))


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_announced_when_they_are_asked_for(pools, images, workers):
    images.asked_for.clear()
    ready = submit(pools[workers], [4, 2])
    assert [4, 2] in images.asked_for
    ready()


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_errors_for_the_user_arrive_as_they_are_and_end_nothing(pools, workers):
    ready = [submit(pools[workers], [0, 1, REFUSED]), submit(pools[workers], [0, 1, 2])]
    with pytest.raises(UsageError, match=r"^Picture 20 is refused\.$") as error:
        ready[0]()
    assert error.value.exit_code == 2
    assert len(ready[1]()) == 2
    assert len(submit(pools[workers], [0])()) == 2


def test_pictures_too_small_are_refused_before_a_worker_starts(images):
    small = {"v": View(TypeAdapter(ViewSpec).validate_python([{"center_crop": {"size": 40}}]))}
    with pytest.raises(UsageError, match="36 x 45"):
        HostPictures(images, small, seed=0, workers=1)


def test_other_errors_say_what_happened_in_the_worker(pools):
    ready = submit(pools[1], [0, BROKEN])
    for call in (ready, lambda: submit(pools[1], [0])):
        with pytest.raises(
            RunFailedError, match="ZeroDivisionError: picture 21 is broken"
        ) as error:
            call()
        assert "in picture" in error.value.__notes__[0]


def test_a_killed_worker_ends_the_run_soon(pools):
    before = submit(pools[3])
    before()
    ready = [submit(pools[3]) for _ in range(DEPTH - 1)]
    victim = pools[3]._maker._processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RunFailedError, match=r"killed by SIGKILL.*machine\.workers"):
        use_up(pools[3], ready)
    assert time.monotonic() - start < 5
    with pytest.raises(RunFailedError, match="killed by SIGKILL"):
        submit(pools[3])


def use_up(pool, ready):
    """Those that were made are still handed out; it is never long until one is not."""
    while True:
        ready.append(submit(pool))
        ready.pop(0)()


def test_close_ends_the_workers_and_keeps_the_tensors(pools):
    (a,) = submit(pools[2], [0, 1], names=("a",))()
    copy, processes = a.clone(), pools[2]._maker._processes
    pools[2].close()
    pools[2].close()
    assert all(not process.is_alive() for process in processes)
    assert torch.equal(a, copy)
    with pytest.raises(RuntimeError, match="close"):
        submit(pools[2], [0])


def test_pictures_a_worker_cannot_have_are_refused_by_name(images):
    local = RaggedImages(images.pictures)
    local.kept = {(1, 1): lambda: None}
    with pytest.raises(UsageError, match=r"RaggedImages.*machine\.workers=0"):
        HostPictures(local, VIEWS, seed=0, workers=1)
    pool = HostPictures(HomelyImages(images.pictures), VIEWS, seed=0, workers=1)
    with pytest.raises(RunFailedError, match="unpickled elsewhere"):
        submit(pool, [0])()
    processes = pool._maker._processes
    del pool
    gc.collect()
    assert all(not process.is_alive() for process in processes)


@pytest.mark.slow
def test_the_benchmark_runs():
    file = HERE.parents[1] / "benchmarks" / "views.py"
    done = subprocess.run(
        [sys.executable, str(file), "--quick"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for row in (
        "usual chain",
        "ours, uint8",
        "ours, float32",
        "T1 from 256",
        "copying",
        "with two",
    ):
        assert row in done.stdout


SCRIPT = f"""
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: None)
sys.path.append({str(HERE)!r})
import numpy as np
from made_pictures import RaggedImages, lesion
from ltbench.views.pool import HostPictures
from ltbench.views.transforms import Resize
from ltbench.views.view import View
images = RaggedImages([lesion(n, 40, 50) for n in range(4)])
pool = HostPictures(images, {{"v": View([Resize(size=32)])}}, seed=0, workers=1)
ask = lambda: pool.submit(np.arange(4), np.arange(4), ["v"], epoch=0, words=[1])
try:
    print("starting", pool._maker._processes[0].pid, flush=True)
    for _ in range(3):
        ask()()
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    ask()()
    print("interrupted", flush=True)
if "stay" in sys.argv:
    pool.submit(np.arange(4), np.arange(4), ["v"], epoch=0, words=[1])
    print("staying", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def start_script():
    """Starts a script; none outlives a test that fails."""
    started = []

    def start(file, *arguments):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, str(file), *arguments]
        started.append(subprocess.Popen(command, start_new_session=True, **streams))
        return started[-1]

    yield start
    for script in started:
        script.kill()
        script.wait()


@pytest.mark.slow
def test_a_script_leaves_nothing_behind_however_it_ends(tmp_path, start_script):
    """It has no `if __name__ == "__main__"`, and is interrupted as by Ctrl-C: the whole group."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT, encoding="utf-8")
    shared = shared_memory()
    leaves, stays = (start_script(file, *arguments) for arguments in ([], ["stay"]))
    workers = [int(script.stdout.readline().split()[1]) for script in (leaves, stays)]
    for number in (signal.SIGUSR1, signal.SIGINT):  # while its worker is starting
        os.killpg(leaves.pid, number)
    assert leaves.stdout.readline() == "interrupted\n"
    assert leaves.wait(20) == 0
    assert stays.stdout.readline() == "ready\n"
    os.killpg(stays.pid, signal.SIGINT)
    assert [stays.stdout.readline() for _ in range(2)] == ["interrupted\n", "staying\n"]
    stays.kill()
    for script in (leaves, stays):
        assert script.communicate(timeout=20)[1] == ""
    assert shared_memory() <= shared
    deadline = time.monotonic() + 5
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def shared_memory():
    """Names under which memory is shared; semaphores are of other programs."""
    return {file.name for file in Path("/dev/shm").iterdir() if not file.name.startswith("sem.")}


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
