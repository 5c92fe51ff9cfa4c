"""A cluster in memory, and results without work, for tests of what the flows decide."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ddpm_core.config import RunConfig, identity
from ddpm_core.progress import BEGINS, ENDS
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.run import open_run
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.storage import Store
from flows.ray_jobs import Job

METRICS = (
    b'{"bits_per_dim": {"value": 3.25, "standard_error": 0.5, "protocol": {"num_images": 8}}, '
    b'"frechet_distance": {"value": 12.5, "test_train": 1.5, '
    b'"protocol": {"num_images": {"samples": 80, "test": 297}}}}'
)
PNG = b"\x89PNG not really"


def finish(store: Store, config: RunConfig, stage: str) -> None:
    """Commit what the stage would, smaller."""
    run = config.name
    if stage == "shard":
        folder = layout.dataset_folder(config.data.name, "d" * 64)
        body = {"fingerprint": "d" * 64, "data": identity.data(config.data)}
        commit(store, folder, {}, body, name=layout.DATASET_INDEX)
        pointer = results.DatasetPointer(folder, "d" * 64)
        store.create(layout.dataset_pointer_key(run), pointer.to_json())
    elif stage == "train":
        folder = layout.checkpoint_folder(run, config.train.num_steps)
        files = {"ema": write_file(store, folder, "ema", ".bin", b"weights")}
        experiment = layout.experiment_fingerprint(config)
        body = {"experiment": experiment, "step": config.train.num_steps, "dataset": "d" * 64}
        commit(store, folder, files, body)
    elif stage == "ablations":
        place = places.ablations(store, config)
        commit(store, place.folder, {}, place.expected.body)
    else:
        weights = results.weights_of(store, config)
        if stage == "sample":
            place = places.samples(store, config, weights)
            files = {"grid": write_file(store, place.folder, "grid", ".png", PNG)}
        elif stage == "study":
            place, files = places.study(store, config, weights, "d" * 64), {}
        else:
            place = places.evaluation(store, config, weights, "d" * 64)
            files = {"metrics": write_file(store, place.folder, "metrics", ".json", METRICS)}
        body = {**place.expected.body, **place.expected.noted}
        commit(store, place.folder, files, body, name=place.name)


def recorded(store: Store, config: RunConfig, *finished: str) -> None:
    """Write run.json and the results of the stages that are finished."""
    open_run(store, config)
    for stage in finished:
        finish(store, config, stage)


def is_done(store: Store, config: RunConfig, *stages: str) -> bool:
    return all(STAGES[stage].result(store, config) is not None for stage in stages)


@dataclass
class FakeJobs:
    """Jobs that do at once what `work` does; `ends` are how their stages end, in this order.

    As of Ray: whoever follows a job gets its log from the beginning.
    """

    work: Callable[[str], None]
    """called with <run>-<stage>-..., the id of a job of that stage"""
    ends: list[int | str | None] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    submitted: list[tuple[str, list[str]]] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    """the stages, in whatever job"""
    lines: list[str] = field(default_factory=lambda: ["hello"])
    on_follow: Callable[[], None] = lambda: None
    last_words: list[str] = field(default_factory=list)
    """of a job that is stopped"""
    commands: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)

    def ensure(self, prefix: str, command: Sequence[str]) -> tuple[Job, bool]:
        mine = [job for name, job in self.jobs.items() if name.rpartition("-a")[0] == prefix]
        alive = [job for job in mine if not job.has_ended]
        if alive:
            return alive[-1], True
        name = f"{prefix}-a{len(mine) + 1}"
        self.submitted.append((name, list(command)))
        self.commands[name] = list(command)
        self.jobs[name] = Job(name, "RUNNING", None, "")
        self.left[name] = command[3].split(",")
        self.logs[name] = []
        return self.jobs[name], False

    def job(self, submission_id: str) -> Job:
        return self.jobs[submission_id]

    def follow(self, submission_id: str, on_line: Callable[[str], None]) -> Job:
        self.followed.append(submission_id)
        log = self.logs.setdefault(submission_id, [])
        for line in list(log):
            on_line(line)
        while not self.jobs[submission_id].has_ended:
            for line in self._next_stage(submission_id):
                log.append(line)
                on_line(line)
        return self.jobs[submission_id]

    def _next_stage(self, submission_id: str) -> Iterator[str]:
        left = self.left.setdefault(submission_id, [submission_id.split("-")[1]])
        stage = left.pop(0)
        self.ran.append(stage)
        has_marks = "ddpm_core.several" in self.commands.get(submission_id, [])
        if has_marks:
            yield f"{BEGINS}{stage}"
        yield from self.lines
        self.on_follow()
        end = self.ends.pop(0) if self.ends else 0
        if end == 0:
            self.work(f"{submission_id.split('-')[0]}-{stage}-{submission_id}")
        if end != 0 or not left:
            status = {0: "SUCCEEDED", "stopped": "STOPPED"}.get(end, "FAILED")
            code = end if isinstance(end, int) else None
            self.jobs[submission_id] = replace(
                self.jobs[submission_id], status=status, exit_code=code, message="as Ray says"
            )
        if end == 0 and has_marks:
            yield f"{ENDS}{stage}"

    def alive(self, beginning: str) -> list[Job]:
        return [j for n, j in self.jobs.items() if n.startswith(beginning) and not j.has_ended]

    def stop(self, submission_id: str) -> Job:
        self.logs.setdefault(submission_id, []).extend(self.last_words)
        self.jobs[submission_id] = replace(self.jobs[submission_id], status="STOPPED")
        return self.jobs[submission_id]
