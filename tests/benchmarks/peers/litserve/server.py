"""LitServe with the benchmark's model: `server.py PORT` as documented, `server.py PORT batched` with its batching."""

import os
import sys

import litserve
import numpy as np
import xgboost


class Plain(litserve.LitAPI):
    def setup(self, device):
        self.model = xgboost.Booster({"nthread": 1}, model_file=os.environ["BENCH_MODEL"])

    def decode_request(self, request):
        return np.asarray(request["input"], np.float32)

    def predict(self, x):
        return self.model.inplace_predict(x)

    def encode_response(self, output):
        return {"output": output.tolist()}


class Batched(Plain):
    """A request may have several rows, so arrays are joined and not stacked."""

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        ends = np.cumsum([len(rows) for rows in x])[:-1]
        return np.split(self.model.inplace_predict(np.concatenate(x)), ends)

    def unbatch(self, output):
        return output


if __name__ == "__main__":
    port, is_batched = int(sys.argv[1]), sys.argv[2:] == ["batched"]
    api = Batched(max_batch_size=32, batch_timeout=0.01) if is_batched else Plain()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=is_batched)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning" if is_batched else "info",
    )
