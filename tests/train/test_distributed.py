"""Two processes train as one: the same weights on both ranks, one log, one set of checkpoints; and they resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import hashlib, sys, threading
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_dit_training import learner
from facegen.train.loop import make_accelerator, train

torch.set_num_threads(1)
scratch, total = Path(sys.argv[1]), int(sys.argv[2])
scratch.mkdir(exist_ok=True)
one = learner()
accelerator = make_accelerator(torch.device("cpu"), torch.float32)
train(one, total_images=total, batch_size=64, scratch=scratch, identity={{}}, log_images=320, checkpoint_images=320,
      checkpoint_minutes=1e9, accelerator=accelerator, on_log=lambda r, t: None, stop=threading.Event())
weights = b"".join(p.detach().numpy().tobytes() for p in one.models["dit"].parameters())
averages = b"".join(p.numpy().tobytes() for p in one.ema.averages[0])
Path(scratch, f"rank{{accelerator.process_index}}.{{total}}").write_text(hashlib.sha256(weights + averages).hexdigest())
"""


def torchrun(script, scratch, total):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(scratch), str(total)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_one_model_and_resume(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    torchrun(script, tmp_path / "whole", 1280)
    torchrun(script, tmp_path / "split", 640)
    torchrun(script, tmp_path / "split", 1280)
    digests = {(tmp_path / run / f"rank{rank}.1280").read_text() for run in ("whole", "split") for rank in (0, 1)}
    assert len(digests) == 1
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [320, 640, 960, 1280]
    assert lines[-1]["loss"] < lines[0]["loss"]
