"""Ask a real KServe server in an environment of its own, and compare its vectors with the truth.

    python tests/counterpart.py [folder of an environment, made where there is none]

Not among the tests: it installs KServe, which needs the network and a minute.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import torch
from conftest import ROOT
from serving import SIZE, noise, remote

from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.targets.open_inference import OpenInference
from stealing.targets.sanity_check import check_first_answers

SERVER = '''
import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer


class Means(Model):
    """The mean of each channel and of each row of pixels."""

    def load(self):
        self.ready = True
        return True

    def predict(self, payload, headers=None, response_headers=None):
        images = payload.inputs[0].as_numpy().astype(np.float32)
        rows = np.concatenate([images.mean((2, 3)), images.mean((1, 3))], axis=1).astype(np.float32)
        output = InferOutput("features", list(rows.shape), "FP32")
        output.set_data_from_numpy(rows, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id, self.name, [output])


model = Means("means")
model.load()
ModelServer(http_port=PORT, enable_grpc=False, workers=1).start([model])
'''


def main() -> None:
    """Make the environment, start the server, ask over both wires."""
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "kserve"
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "kserve"], check=True)
    port, images = 18080, noise(100)
    expected = torch.cat([images.float().mean((2, 3)), images.float().mean((1, 3))], dim=1)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [python, "-c", SERVER.replace("PORT", str(port))], cwd=ROOT, env=environment
    )
    try:
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/v2/models/means/ready").status_code == 200:
                    break
            except httpx2.ConnectError:
                assert server.poll() is None, "the server did not start"
            time.sleep(0.2)
        for binary in (False, True):
            wire = OpenInference("means", "images", "features", "UINT8", binary, 32)
            target = remote(f"http://127.0.0.1:{port}", wire, credential=None)
            with tempfile.TemporaryDirectory() as folder:
                ledger = Ledger(f"{folder}/ledger.sqlite")
                door = MeteredTarget(target, ledger, Path(folder) / "banks", Budget(1000, 10))
                apart, found = (
                    check_first_answers(door, "attacker/0"),
                    door.ask(images, "attacker/0", "attack"),
                )
                ledger.close()
            error = float((found - expected).abs().max())
            print(
                f"KServe, {'binary' if binary else 'JSON'}: {len(found)} vectors of {SIZE + 3}, "
                f"off by {error:.1e}, repeats itself to {apart:.0e}"
            )
            assert error < 1e-3
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
